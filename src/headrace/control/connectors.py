"""Connectors that are added to an installation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from headrace import catalog
from headrace.connector import ConnectorSpec
from headrace.connector.packages import Agree, Package
from headrace.control.access import Actor, Guarded, Permission, needs


def look_in(folder: Path, environ: Mapping[str, str]) -> None:
    """Let this process know the connectors that were added to the installation with this data folder."""
    catalog.look_in(Path(environ.get("HEADRACE_CONNECTORS_FOLDER") or folder / "connectors"))


class Connectors(Guarded):
    """A connector is foreign code, for everybody on this installation: administrators add it."""

    @needs(Permission.ADMINISTER, changes=True)
    def install(self, actor: Actor, package: Package, agree: Agree) -> ConnectorSpec:
        """Install a package and prove that it runs; it is in the catalogue then. The same again is well.

        `agree` is asked with the package's name and licence before any of its code runs. Raises
        ConfigError for what is no connector here, TransientError.
        """
        return catalog.install(package, agree)
