"""`${NAME}`, `${NAME:-default}` and `${file:path}` in settings, for a person's own command line only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from headrace.errors import ConfigError

_REFERENCE = re.compile(
    r"\$\$\{"
    r"|\$\{file:(?P<file>[^}]+)\}"
    r"|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}"
    r"|\$\{(?P<bad>[^}]*)\}?"
)


def resolve(text: str, environ: Mapping[str, str], folder: Path) -> str:
    """The text with its references filled in; `$${` stands for `${` itself.

    A default holds for a variable that is unset or empty. A file is read from `folder` on, without the
    line end at its end. Raises ConfigError that names what is missing.
    """

    def fill(match: re.Match[str]) -> str:
        if match[0] == "$${":
            return "${"
        if match["bad"] is not None:
            raise ConfigError(
                "project.bad_reference",
                f"{match[0]!r} is not a reference",
                remedy="Write ${NAME}, ${NAME:-default} or ${file:path}; $${ stands for ${ itself.",
            )
        if match["file"]:
            return _read(folder / match["file"])
        value = environ.get(match["name"], "")
        if value or (match["default"] is None and match["name"] in environ):
            return value
        if match["default"] is not None:
            return match["default"]
        raise ConfigError(
            "project.unset_variable",
            f"the environment variable {match['name']} is not set",
            remedy=f"Set it, or give a default: ${{{match['name']}:-default}}.",
        )

    return _REFERENCE.sub(fill, text)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "project.unreadable_file",
            f"{path} can't be read: {getattr(error, 'strerror', None) or 'it is not UTF-8 text'}",
            remedy="Name a text file that you may read; a relative path starts at the project file's folder.",
        ) from None
