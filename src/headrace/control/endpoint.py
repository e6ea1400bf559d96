"""One side of a pipeline in a process that may use it: settings with their secrets, in memory only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import SecretStr

from headrace import catalog
from headrace.connector import Config, ConnectorSpec, Source, Target
from headrace.model.connection import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """`settings` are raw and may hold secrets: an endpoint is never stored, shown or logged."""

    name: str
    connector: str
    settings: Mapping[str, Any] = field(repr=False)
    keep: Callable[[Mapping[str, Any]], None] | None = None
    """Stores settings that the far side changed; None when they are not ours to store."""

    @classmethod
    def nameless(cls, connector: str, settings: Mapping[str, Any]) -> Endpoint:
        """An endpoint without a name of its own: it follows from the settings that are no secret."""
        plain = public(catalog.connector(connector).config, settings)
        text = json.dumps(plain, sort_keys=True, default=str)
        return cls(
            name=f"{connector}-{hashlib.sha256(text.encode()).hexdigest()[:8]}",
            connector=connector,
            settings=settings,
        )

    @property
    def spec(self) -> ConnectorSpec:
        return catalog.connector(self.connector)

    def source(self) -> Source[Any]:
        """A new source; the caller closes it. Raises ConfigError for bad settings."""
        source = catalog.source(self.connector, self.settings)
        source.keep_settings = self.keep
        return source

    def target(self) -> Target[Any]:
        """A new target; the caller closes it. Raises ConfigError for bad settings."""
        return catalog.target(self.connector, self.settings)

    def connection(self) -> Connection:
        """What may be remembered of it."""
        spec = self.spec
        return Connection(
            id=self.name,
            name=self.name,
            connector=self.connector,
            settings=public(spec.config, self.settings),
            secrets=tuple(sorted(spec.config.secret_fields() & set(flat(self.settings)))),
        )

    def secrets(self) -> Iterator[str]:
        """The secret values, for those who must keep them off a screen."""
        yield from secrets(self.spec.config, self.settings)

    def words(self) -> Iterator[str]:
        """The values that are no secret."""
        hidden = self.spec.config.secret_fields()
        yield self.connector
        yield from (
            str(v) for path, v in flat(self.settings).items() if path not in hidden and v not in (None, "")
        )


def public(config: type[Config], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without those that are secret."""
    return _without(settings, config.secret_fields(), "")


def secrets(config: type[Config], settings: Mapping[str, Any]) -> Iterator[str]:
    """The values of those that are secret."""
    given = flat(settings)
    for path in config.secret_fields():
        if isinstance(value := given.get(path), SecretStr):
            yield value.get_secret_value()
        elif value:
            yield str(value)


def _without(settings: Mapping[str, Any], hidden: frozenset[str], prefix: str) -> dict[str, Any]:
    plain = {}
    for name, value in settings.items():
        if prefix + name in hidden:
            continue
        plain[name] = _without(value, hidden, f"{prefix}{name}.") if isinstance(value, Mapping) else value
    return plain


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The settings by dotted path."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found
