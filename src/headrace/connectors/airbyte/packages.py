"""Connectors of the Airbyte protocol as entries of the catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from headrace.connector import Capability, ConnectorSpec, Maturity
from headrace.connector.packages import Agree, Package
from headrace.connectors.airbyte import installed
from headrace.connectors.airbyte.installed import Installed


class AirbytePackages:
    """A source for each package that was installed."""

    def find(self, folder: Path, name: str) -> ConnectorSpec | None:
        name, _, version = name.partition("@")
        if not name or "/" in name or name.startswith("."):
            return None
        for one in installed.versions(folder, name):
            if not version or one.version == version:
                return _spec(one, f"{name}@{version}" if version else name)
        return None

    def all(self, folder: Path) -> Mapping[str, ConnectorSpec]:
        found: dict[str, ConnectorSpec] = {}
        for name in installed.names(folder):
            for one in installed.versions(folder, name):
                known = f"{name}@{one.version}" if name in found else name
                found.setdefault(known, _spec(one, known))
        return found

    def install(self, folder: Path, package: Package, agree: Agree) -> ConnectorSpec:
        from headrace.connectors.airbyte.install import install

        done = install(folder, package, agree)
        return _spec(done, done.name)


def _spec(one: Installed, name: str) -> ConnectorSpec:
    return _made(one.folder, one.installed_at, name)


@lru_cache(maxsize=256)
def _made(folder: Path, installed_at: str, name: str) -> ConnectorSpec:
    """One spec for one installation: the classes of its settings are made once."""
    from headrace.connectors.airbyte.config import config_of

    one = Installed.load(folder)
    modes = {Capability.FULL, Capability.INCREMENTAL}
    return ConnectorSpec(
        name=name,
        title=one.title or one.name,
        version=one.version,
        config=config_of(one),
        source="headrace.connectors.airbyte.source:AirbyteSource",
        capabilities=frozenset(modes),
        maturity=Maturity.EXPERIMENTAL,
        category="airbyte",
        icon="airbyte",
    )


PACKAGES = AirbytePackages()
