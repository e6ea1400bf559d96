"""Finds connectors and transforms by entry point, and loads a driver only on first use."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from headrace.connector import ConnectorSpec, Source, Target, Transform, TransformSpec
from headrace.connector.packages import Agree, Package, Packages
from headrace.errors import ConfigError, NotFoundError

CONNECTORS = "headrace.connectors"
TRANSFORMS = "headrace.transforms"
PACKAGES = "headrace.packages"

_folder: Path | None = None


def look_in(folder: Path | None) -> None:
    """From now on this process knows the connectors that are installed in the folder; it need not exist."""
    global _folder  # noqa: PLW0603 - there is one catalogue in a process
    _folder = folder.absolute() if folder else None


def folder() -> Path | None:
    """Where connectors are installed."""
    return _folder


@cache
def _entries(group: str) -> Mapping[str, EntryPoint]:
    """The entry points of a group by name, which is the name of the spec that each loads."""
    return {entry.name: entry for entry in sorted(entry_points(group=group), key=lambda entry: entry.name)}


def connectors() -> Mapping[str, ConnectorSpec]:
    """Every connector: those that come with this installation, then those that were added, by name."""
    found: dict[str, ConnectorSpec] = {}
    if _folder is not None:
        for kind in _packages():
            found |= kind.all(_folder)
    return {name: entry.load() for name, entry in _entries(CONNECTORS).items()} | {
        name: spec for name, spec in found.items() if name not in _entries(CONNECTORS)
    }


def install(package: Package, agree: Agree) -> ConnectorSpec:
    """Add a connector; it is an entry at once, for other processes too. Raises what its kind raises."""
    if _folder is None:
        raise ConfigError(
            "catalog.no_folder",
            "there is no folder to install connectors in",
            remedy="Name the data folder with --data or HEADRACE_DATA.",
        )
    (kind,) = _packages()
    return kind.install(_folder, package, agree)


def _packages() -> list[Packages]:
    return [entry.load() for entry in _entries(PACKAGES).values()]


def transforms() -> Mapping[str, TransformSpec]:
    """Every transform that is installed, by name."""
    return {name: entry.load() for name, entry in _entries(TRANSFORMS).items()}


def connector(name: str) -> ConnectorSpec:
    """The connector of that name. Raises NotFoundError with the nearest known one."""
    known = _entries(CONNECTORS)
    if name in known:
        spec: ConnectorSpec = known[name].load()
        return spec
    if _folder is not None:
        for kind in _packages():
            if (found := kind.find(_folder, name)) is not None:
                return found
    raise NotFoundError(
        "catalog.unknown_connector",
        f"there is no connector {name!r}",
        field="connector",
        remedy=_nearest(name, connectors()),
    )


def _nearest(name: str, known: Iterable[str]) -> str:
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean {near[0]!r}?" if near else f"Installed are: {', '.join(known)}."


def from_url(url: str) -> tuple[ConnectorSpec, dict[str, Any]]:
    """The connector that a one-line address names, and its raw settings."""
    scheme = url.partition(":")[0]
    # one that is named like the scheme comes first: the others then need not be loaded
    for name in sorted(_entries(CONNECTORS), key=lambda name: not scheme.startswith(name)):
        spec = connector(name)
        if scheme in spec.config.schemes:
            return spec, spec.config.from_url(url)
    if (named := connectors().get(scheme)) and named.unavailable:
        raise _not_yet(named)
    schemes = sorted(s for spec in connectors().values() for s in spec.config.schemes)
    near = difflib.get_close_matches(scheme, schemes, n=1)
    remedy = f"Did you mean {near[0]}:…?" if near else f"An address starts with one of: {', '.join(schemes)}."
    raise ConfigError("catalog.unknown_address", f"no connector answers to {scheme!r}", remedy=remedy)


def source(name: str, settings: Mapping[str, Any]) -> Source[Any]:
    """A source, its settings validated; connects to nothing yet."""
    spec = readable(name)
    loaded: Source[Any] = _load(spec, str(spec.source))(spec.config.parse(settings))
    return loaded


def target(name: str, settings: Mapping[str, Any]) -> Target[Any]:
    """A target, its settings validated; connects to nothing yet."""
    spec = writable(name)
    loaded: Target[Any] = _load(spec, str(spec.target))(spec.config.parse(settings))
    return loaded


def readable(name: str) -> ConnectorSpec:
    """The connector of that name, if it can be read from. Raises NotFoundError and ConfigError."""
    spec = connector(name)
    if spec.unavailable and spec.reads:
        raise _not_yet(spec)
    if spec.source is None:
        raise ConfigError(
            "catalog.not_a_source",
            f"{spec.title} can't be read from",
            field="connector",
            remedy=f"Sources are: {', '.join(n for n, s in connectors().items() if s.source)}.",
        )
    return spec


def writable(name: str) -> ConnectorSpec:
    """The connector of that name, if it can be written to. Raises NotFoundError and ConfigError."""
    spec = connector(name)
    if spec.unavailable and spec.writes:
        raise _not_yet(spec)
    if spec.target is None:
        raise ConfigError(
            "catalog.not_a_target",
            f"{spec.title} can't be written to",
            field="connector",
            remedy=f"Targets are: {', '.join(n for n, s in connectors().items() if s.target)}.",
        )
    return spec


def _not_yet(spec: ConnectorSpec) -> ConfigError:
    usable = [name for name, other in connectors().items() if not other.unavailable]
    lack = (spec.unavailable or "").rstrip(".")
    return ConfigError(
        "catalog.not_yet",
        f"this version of Headrace can't use {spec.title} yet: {lack[:1].lower()}{lack[1:]}",
        field="connector",
        remedy=f"Use a connector that is there: {', '.join(usable)}.",
    )


def transform(name: str, settings: Mapping[str, Any]) -> Transform:
    """A transform, its settings validated."""
    known = _entries(TRANSFORMS)
    if name not in known:
        raise NotFoundError(
            "catalog.unknown_transform",
            f"there is no transform {name!r}",
            field="transforms",
            remedy=_nearest(name, known),
        )
    spec: TransformSpec = known[name].load()
    return spec.make(spec.config.parse(settings))


def _load(spec: ConnectorSpec, where: str) -> Any:
    module, _, name = where.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as error:
        if spec.extra is None:
            raise
        raise ConfigError(
            "catalog.driver_missing",
            f"the driver of {spec.title} is not installed ({error.name})",
            remedy=f"Install it: pip install 'headrace[{spec.extra}]'.",
        ) from None
