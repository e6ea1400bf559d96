"""Connections: kept with their secrets under seal, tried, and asked what there is at their other end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypedDict
from uuid import uuid4

from headrace import catalog
from headrace.connector import HIDDEN, Config, Selection, Stream
from headrace.control.access import Actor, Guarded, Permission, needs, refuse_other_teams
from headrace.control.endpoint import Endpoint, flat, public
from headrace.errors import ConfigError, ConflictError, NotFoundError
from headrace.model.connection import Connection

if TYPE_CHECKING:
    from headrace.store import Store

_WHERE_TO = frozenset(
    {
        "account", "base_url", "bootstrap_servers", "brokers", "catalog", "database", "endpoint", "host",
        "port", "proxy", "server", "service_name", "token_url", "uri", "url", "user", "username", "warehouse",
    }
)  # fmt: skip
"""Settings that decide who gets to see a secret."""


class ConnectionChange(TypedDict, total=False):
    """What is absent stays; `settings` replace all of them."""

    name: str
    settings: Mapping[str, Any]
    team: str | None
    extras: Mapping[str, Any]


class Connections(Guarded):
    """Settings are raw, secrets among them, on the way in; on the way out none has its secrets."""

    @needs(Permission.CONNECTION_READ)
    def list(self, actor: Actor) -> Sequence[Connection]:
        """By name: those that the actor may see."""
        return [c for c in self._in(actor).connections.list() if actor.sees(c.team)]

    @needs(Permission.CONNECTION_READ)
    def get(self, actor: Actor, id: str) -> Connection:
        """Raises NotFoundError, and AuthError for one of a team that the actor is not in."""
        found = self._in(actor).connections.get(id)
        refuse_other_teams(actor, found.team, change=False)
        return found

    @needs(Permission.CONNECTION_READ)
    def by_name(self, actor: Actor, name: str) -> Connection:
        """Raises NotFoundError, also for one of a team that the actor is not in: names can be guessed."""
        found = self._in(actor).connections.by_name(name)
        if not actor.sees(found.team):
            raise NotFoundError("store.no_connection", f"there is no connection {name!r}")
        return found

    @needs(Permission.CONNECTION_WRITE, changes=True)
    def create(self, actor: Actor, draft: Connection, settings: Mapping[str, Any]) -> Connection:
        """Check the settings and store a new connection; of the draft count name, connector, team, extras.

        Eight stars are a secret like any other here. Raises ConfigError that names the setting,
        NotFoundError for an unknown connector or a team of another workspace, ConflictError
        (`store.name_taken`).
        """
        config = catalog.connector(draft.connector).config
        config.parse(settings)
        self._refuse_foreign(actor, draft.team)
        draft = replace(draft, id=str(uuid4()), settings=public(config, settings), secrets=(), version=0)
        return self._in(actor).connections.save(draft, _secrets(config, settings), marks=False)

    @needs(Permission.CONNECTION_WRITE, changes=True)
    def update(self, actor: Actor, id: str, changes: ConnectionChange) -> Connection:
        """A secret given as `HIDDEN` keeps the stored one, which must be there (`connections.no_secret`)
        and may go nowhere else: with a new address it must be given again (`connections.secret_again`).

        Raises also what `create` raises, and ConflictError (`store.changed`).
        """
        store = self._in(actor)
        known = self._changeable(actor, id)
        changed = replace(
            known,
            name=changes.get("name", known.name),
            team=changes.get("team", known.team),
            extras=changes.get("extras", known.extras),
        )
        if "team" in changes:
            self._refuse_foreign(actor, changed.team)
        if "settings" not in changes:
            return store.connections.save(changed)
        config = catalog.connector(known.connector).config
        stored = flat(store.connections.settings(id))
        given = changes["settings"]
        config.parse(_kept(config, known, stored, given))
        changed = replace(changed, settings=public(config, given), secrets=())
        return store.connections.save(changed, _secrets(config, given))

    @needs(Permission.CONNECTION_WRITE, changes=True)
    def delete(self, actor: Actor, id: str) -> None:
        """Its secrets go too. Raises ConflictError (`store.in_use`) while a pipeline uses it."""
        self._changeable(actor, id)
        self._in(actor).connections.delete(id)

    @needs(Permission.CONNECTION_WRITE)
    def test(self, actor: Actor, id: str, *, source: bool) -> None:
        """Return when a run could start; else raise an error with the field and the remedy."""
        check(self._endpoint(actor, id), source=source)

    @needs(Permission.CONNECTION_WRITE)
    def discover(self, actor: Actor, id: str, selection: Selection) -> Sequence[Stream]:
        """The streams that can be read, in a stable order."""
        return discover(self._endpoint(actor, id), selection)

    def _endpoint(self, actor: Actor, id: str) -> Endpoint:
        self._changeable(actor, id)
        return stored(self._in(actor), id)

    def _changeable(self, actor: Actor, id: str) -> Connection:
        known = self.get(actor, id)
        refuse_other_teams(actor, known.team, change=True)
        return known

    def _refuse_foreign(self, actor: Actor, team: str | None) -> None:
        if team is not None:
            self._store.teams.get(actor.place, team)
        refuse_other_teams(actor, team, change=True)


def _secrets(config: type[Config], settings: Mapping[str, Any]) -> dict[str, str]:
    """The secrets by dotted path; an empty one is none."""
    given = flat(settings)
    return {path: str(given[path]) for path in sorted(config.secret_fields()) if given.get(path)}


def _kept(
    config: type[Config], known: Connection, stored: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings with stored secrets in the place of their marks."""
    new = flat(given)
    marked = {path for path in config.secret_fields() if new.get(path) == HIDDEN}
    moved = [
        path for path in sorted({*new, *flat(known.settings)})
        if path.rpartition(".")[2] in _WHERE_TO and new.get(path) != stored.get(path)
    ]  # fmt: skip
    for path in sorted(marked):
        if path not in known.secrets:
            raise ConfigError(
                "connections.no_secret", f"there is no {path} to keep", field=path,
                remedy="Give the secret itself.",
            )  # fmt: skip
        if moved and stored[path] != HIDDEN:
            raise ConfigError(
                "connections.secret_again",
                f"{moved[0]} was changed: a stored {path} does not go to another place by itself",
                field=path,
                remedy="Give the secret again.",
            )
    return _filled(given, stored, marked, "")


def _filled(
    given: Mapping[str, Any], stored: Mapping[str, Any], marked: set[str], prefix: str
) -> dict[str, Any]:
    return {
        name: _filled(value, stored, marked, f"{prefix}{name}.")
        if isinstance(value, Mapping)
        else stored[prefix + name]
        if prefix + name in marked
        else value
        for name, value in given.items()
    }


def stored(store: Store, id: str) -> Endpoint:
    """A connection of a store's workspace with its secrets, and what its far side changes is stored there."""
    known = store.connections.get(id)
    settings = store.connections.settings(id)
    return Endpoint(
        name=known.name, connector=known.connector, settings=settings, keep=lambda new: _renew(store, id, new)
    )


def _renew(store: Store, id: str, changed: Mapping[str, Any]) -> None:
    """Store what a connector changed of its settings; what somebody else changes meanwhile stays theirs."""
    for last in (False, False, False, True):
        known = store.connections.get(id)
        config = catalog.connector(known.connector).config
        settings = {**store.connections.settings(id), **changed}
        renewed = replace(known, settings=public(config, settings), secrets=())
        try:
            store.connections.save(renewed, _secrets(config, settings), marks=False)
        except ConflictError:
            if last:
                raise
        else:
            return


def check(endpoint: Endpoint, *, source: bool) -> None:
    """Return when a run could start; else raise an error with the field and the remedy."""
    with closing(endpoint.source() if source else endpoint.target()) as opened:
        opened.check()


def discover(endpoint: Endpoint, selection: Selection) -> list[Stream]:
    """The streams that can be read, in a stable order."""
    with closing(endpoint.source()) as source:
        return [stream for stream in source.discover(selection) if stream.id in selection]
