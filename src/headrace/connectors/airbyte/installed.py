"""The connectors that are installed in a folder: where each lies, and what it said of itself."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

RECORD = "connector.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """One version of one connector. `folder` is `<connectors>/<name>/<version>-<hash>`.

    `command` starts it, those of its parts that begin with `venv/` within the folder; `specification` is
    the JSON Schema of its settings.
    """

    name: str
    version: str
    folder: Path
    command: tuple[str, ...]
    specification: Mapping[str, Any] = field(repr=False)
    licence: str
    documentation: str | None = None
    installed_at: str = ""
    title: str = ""

    def save(self) -> None:
        """Write the record into the folder."""
        record = {k: v for k, v in asdict(self).items() if k != "folder"}
        (self.folder / RECORD).write_text(json.dumps(record, indent=1))

    @classmethod
    def load(cls, folder: Path) -> Installed:
        """Raises OSError or ValueError for what is no connector."""
        record = json.loads((folder / RECORD).read_text())
        return cls(**{**record, "command": tuple(record["command"])}, folder=folder)


def versions(connectors: Path, name: str) -> list[Installed]:
    """What is installed under a name, the newest installation first."""
    found = list(_in(connectors / name))
    return sorted(found, key=lambda one: one.installed_at, reverse=True)


def names(connectors: Path) -> list[str]:
    """What is installed, by name."""
    try:
        return sorted(f.name for f in connectors.iterdir() if f.is_dir() and not f.name.startswith("."))
    except OSError:
        return []


def _in(folder: Path) -> Iterator[Installed]:
    try:
        folders = [f for f in folder.iterdir() if not f.name.startswith(".")]
    except OSError:
        return
    for inner in folders:
        try:
            yield Installed.load(inner)
        except (OSError, ValueError, TypeError):
            continue
