"""Finds connectors and transforms by entry point, and loads a driver only on first use."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from headrace.connector import ConnectorSpec, Source, Target, Transform, TransformSpec
from headrace.errors import ConfigError, NotFoundError

CONNECTORS = "headrace.connectors"
TRANSFORMS = "headrace.transforms"


@cache
def connectors() -> Mapping[str, ConnectorSpec]:
    """Every connector that is installed, by name."""
    specs = [entry.load() for entry in entry_points(group=CONNECTORS)]
    return {spec.name: spec for spec in sorted(specs, key=lambda spec: spec.name)}


@cache
def transforms() -> Mapping[str, TransformSpec]:
    """Every transform that is installed, by name."""
    specs = [entry.load() for entry in entry_points(group=TRANSFORMS)]
    return {spec.name: spec for spec in sorted(specs, key=lambda spec: spec.name)}


def connector(name: str) -> ConnectorSpec:
    """The connector of that name. Raises NotFoundError with the nearest known one."""
    found = connectors()
    if name not in found:
        near = difflib.get_close_matches(name, found, n=1)
        remedy = f"Did you mean {near[0]!r}?" if near else f"Installed are: {', '.join(found)}."
        raise NotFoundError(
            "catalog.unknown_connector", f"there is no connector {name!r}", field="connector", remedy=remedy
        )
    return found[name]


def from_url(url: str) -> tuple[ConnectorSpec, dict[str, Any]]:
    """The connector that a one-line address names, and its raw settings."""
    scheme = url.partition(":")[0]
    for spec in connectors().values():
        if scheme in spec.config.schemes:
            return spec, spec.config.from_url(url)
    schemes = sorted(s for spec in connectors().values() for s in spec.config.schemes)
    near = difflib.get_close_matches(scheme, schemes, n=1)
    remedy = f"Did you mean {near[0]}:…?" if near else f"An address starts with one of: {', '.join(schemes)}."
    raise ConfigError("catalog.unknown_address", f"no connector answers to {scheme!r}", remedy=remedy)


def source(name: str, settings: Mapping[str, Any]) -> Source[Any]:
    """A source, its settings validated; connects to nothing yet."""
    spec = connector(name)
    if spec.source is None:
        raise ConfigError(
            "catalog.not_a_source",
            f"{spec.title} can't be read from",
            field="connector",
            remedy=f"Sources are: {', '.join(n for n, s in connectors().items() if s.source)}.",
        )
    loaded: Source[Any] = _load(spec, spec.source)(spec.config.parse(settings))
    return loaded


def target(name: str, settings: Mapping[str, Any]) -> Target[Any]:
    """A target, its settings validated; connects to nothing yet."""
    spec = connector(name)
    if spec.target is None:
        raise ConfigError(
            "catalog.not_a_target",
            f"{spec.title} can't be written to",
            field="connector",
            remedy=f"Targets are: {', '.join(n for n, s in connectors().items() if s.target)}.",
        )
    loaded: Target[Any] = _load(spec, spec.target)(spec.config.parse(settings))
    return loaded


def transform(name: str, settings: Mapping[str, Any]) -> Transform:
    """A transform, its settings validated."""
    found = transforms()
    if name not in found:
        near = difflib.get_close_matches(name, found, n=1)
        remedy = f"Did you mean {near[0]!r}?" if near else f"Installed are: {', '.join(found)}."
        raise NotFoundError(
            "catalog.unknown_transform", f"there is no transform {name!r}", field="transforms", remedy=remedy
        )
    spec = found[name]
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
