"""What it takes to install connectors while Headrace runs: a port that a kind of packages fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from headrace.model.connector import ConnectorSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """What to install: `requirement` is `name==version`, or `path` a wheel or a folder.

    A folder holds a wheel, `pyproject.toml` or `requirements.txt`, and may bring further wheels in `wheels/`.
    `lock` is a file with the hashes of all that may be installed. Without `build` nothing is run that is not
    built: a source package would run code of its own before anybody looked at it.
    """

    requirement: str | None = None
    path: Path | None = None
    lock: Path | None = None
    build: bool = False

    @property
    def id(self) -> str:
        """The name of it, for people and for the audit log."""
        return self.requirement or (self.path.name if self.path else "")


Agree = Callable[[str, str], bool]
"""Asked with the package and its licence, before anything of it is run: shall it be installed?"""


class Packages(Protocol):
    """A kind of packages that are connectors. `folder` is where they are installed."""

    def find(self, folder: Path, name: str) -> ConnectorSpec | None:
        """The entry of that name; `name@version` is that version, the name alone the one installed last."""

    def all(self, folder: Path) -> Mapping[str, ConnectorSpec]:
        """Every entry, by name; a version that is not the last stands under `name@version`."""

    def install(self, folder: Path, package: Package, agree: Agree) -> ConnectorSpec:
        """Install and prove it; nothing changes unless all went well. The same again changes nothing."""
