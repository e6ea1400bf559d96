"""Connections: kept with their secrets under seal, tried, and asked what there is at their other end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar
from uuid import NAMESPACE_URL, uuid4, uuid5

from headrace import catalog
from headrace.connector import EVERYTHING, HIDDEN, Config, Selection, Stream, egress
from headrace.control.access import Actor, Guarded, Kind, Permission, needs, refuse_other_teams
from headrace.control.endpoint import Endpoint, flat, public
from headrace.engine.retry import report
from headrace.errors import ConfigError, ConflictError, HeadraceError, NotFoundError, TransientError
from headrace.model.connection import INTERNAL, Connection, Tested
from headrace.model.run import ErrorReport

if TYPE_CHECKING:
    from headrace.store import Store

R = TypeVar("R")
DEFAULT_TARGET = "default_target"
_TRIES = 5

WHERE_TO = frozenset(
    {
        "account", "base_url", "bootstrap_servers", "brokers", "catalog", "connection_string", "database",
        "endpoint", "host", "hosts", "instance_url", "login_url", "port", "proxy", "server", "service_name",
        "access_key_id", "email", "sasl_username", "sid", "subdomain", "token_url", "uri", "url", "user",
        "username", "warehouse",
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

    def __init__(self, store: Store, warehouse: str):
        """Workspaces without an Iceberg target get one beneath `warehouse`, a folder or URL."""
        super().__init__(store)
        self.warehouse = warehouse

    @needs(Permission.CONNECTION_READ)
    def list(self, actor: Actor) -> Sequence[Connection]:
        """By name: those that the actor may see."""
        found = self._in(actor).connections.list()
        return [c for c in found if actor.sees(c.team) and not c.extras.get(INTERNAL)]

    @needs(Permission.CONNECTION_READ)
    def get(self, actor: Actor, id: str) -> Connection:
        """Raises NotFoundError, and AuthError for one of a team that the actor is not in."""
        found = self._in(actor).connections.get(id)
        if found.extras.get(INTERNAL):
            raise NotFoundError("store.no_connection", f"there is no connection {id}")
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
        _refuse_our_own_credentials(actor, settings)
        self._refuse_foreign(actor, draft.team)
        draft = replace(draft, id=str(uuid4()), settings=public(config, settings), secrets=(), version=0)
        return self._in(actor).connections.save(draft, _secrets(config, settings), marks=False)

    @needs(Permission.CONNECTION_WRITE, changes=True)
    def update(self, actor: Actor, id: str, changes: ConnectionChange) -> Connection:
        """A secret given as `HIDDEN` keeps the stored one, which must be there (`connections.no_secret`)
        and may go nowhere else: with a new address it must be given again (`connections.secret_again`).

        Of two changes at once the later one wins, each as a whole. Raises also what `create` raises.
        """
        for _ in range(_TRIES):
            try:
                return self._update(actor, id, changes)
            except ConflictError as error:
                if error.code != "store.changed":
                    raise
        return self._update(actor, id, changes)

    def _update(self, actor: Actor, id: str, changes: ConnectionChange) -> Connection:
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
        _refuse_our_own_credentials(actor, given)
        new = config.parse(_kept(config, known, stored, given))
        if new != _parsed(config, store.connections.settings(id)):
            stale = replace(known.tested, stale=True) if known.tested else None
            changed = replace(changed, tested=stale, streams=None)
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
    def try_out(self, actor: Actor, id: str, *, seconds: float = 30) -> Connection:
        """Test it, and remember how that went: never raises for what is wrong at the other end.

        As a source where it can be one, else as a target.
        """
        endpoint, known = self._endpoint(actor, id), self.get(actor, id)
        error: HeadraceError | None = None
        try:
            within(seconds, lambda: check(endpoint, source=endpoint.spec.target is None or _reads(endpoint)))
        except Exception as raised:
            error = report(raised)
        tested = Tested(at=datetime.now(UTC), error=ErrorReport.of(error) if error else None)
        store = self._in(actor)
        store.connections.note(known, tested=tested)
        return store.connections.get(id)

    @needs(Permission.CONNECTION_WRITE)
    def discover(
        self, actor: Actor, id: str, selection: Selection = EVERYTHING, *, seconds: float = 120
    ) -> Sequence[Stream]:
        """The streams that can be read, in a stable order; all of them are remembered by id."""
        endpoint, known = self._endpoint(actor, id), self.get(actor, id)
        found = within(seconds, lambda: discover(endpoint, selection))
        if selection == EVERYTHING:
            self._in(actor).connections.note(known, streams=[stream.id for stream in found])
        return found

    @needs(Permission.CONNECTION_WRITE)
    def default_target(self, actor: Actor, connector: str) -> Connection:
        """Where pipelines of this workspace write by that connector, when nobody says where.

        It is the one that was made the default one, else the only one of its kind; an Iceberg warehouse
        of the workspace's own is made when there is none. Raises NotFoundError, and ConflictError where
        there are several.
        """
        store = self._in(actor)
        fit = [c for c in store.connections.list() if c.connector == connector]
        chosen = [c for c in fit if c.extras.get(DEFAULT_TARGET)] or [c for c in fit if not _reads_too(c)]
        if len(chosen) == 1:
            return chosen[0]
        if chosen:
            raise ConflictError(
                "connections.several_targets",
                f"there are {len(chosen)} {connector} connections to write to",
                remedy="Make one of them the default target: `headrace workspace target`.",
            )
        if connector != "iceberg":
            raise NotFoundError(
                "connections.no_target",
                f"the workspace has no {connector} connection to write to",
                remedy="Make one, and make it the default target: `headrace workspace target`.",
            )
        return _warehouse(store, self.warehouse)

    @needs(Permission.WORKSPACE_MANAGE, changes=True)
    def make_default_target(self, actor: Actor, id: str) -> Connection:
        """Pipelines of this workspace write there from now on, when nobody says where. Raises ConfigError
        for what can't be written to."""
        store, chosen = self._in(actor), self._changeable(actor, id)
        if catalog.connector(chosen.connector).target is None:
            raise ConfigError(
                "connections.not_a_target",
                f"{chosen.name} can't be written to",
                field="connection",
                remedy="Choose a connection to Iceberg, Parquet, PostgreSQL, …",
            )
        for other in store.connections.list():
            if other.connector == chosen.connector and other.extras.get(DEFAULT_TARGET) and other.id != id:
                store.connections.save(replace(other, extras={**other.extras, DEFAULT_TARGET: False}))
        return store.connections.save(replace(chosen, extras={**chosen.extras, DEFAULT_TARGET: True}))

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


def _refuse_our_own_credentials(actor: Actor, settings: Mapping[str, Any]) -> None:
    """A server that others use lends nobody the credentials of its machine."""
    if actor.kind is Kind.LOCAL or egress.policy().loopback:
        return
    for path, value in flat(settings).items():
        if path.rpartition(".")[2] == "ambient_credentials" and value:
            raise ConfigError(
                "connections.ambient",
                "the credentials of the server's own machine are not for connections",
                field=path,
                remedy="Give credentials of your own.",
            )


def _reads(endpoint: Endpoint) -> bool:
    return endpoint.spec.source is not None


def _reads_too(connection: Connection) -> bool:
    return catalog.connector(connection.connector).source is not None


def _warehouse(store: Store, root: str) -> Connection:
    id = str(uuid5(NAMESPACE_URL, f"headrace:warehouse:{store.workspace}"))
    settings = {"warehouse": f"{root.rstrip('/')}/{store.workspace}"}
    made = Connection(
        id=id, name="warehouse", connector="iceberg", settings=settings, extras={DEFAULT_TARGET: True}
    )
    try:
        return store.connections.save(made)
    except ConflictError:  # made by a second first call a moment ago
        return store.connections.get(id)


def _parsed(config: type[Config], settings: Mapping[str, Any]) -> Config | None:
    """The settings as they were understood; None for those that an older version took."""
    try:
        return config.parse(settings)
    except ConfigError:
        return None


def within(seconds: float, work: Callable[[], R]) -> R:
    """What the work gives. Raises TransientError when it takes longer: it is left to end by itself."""
    done: Future[R] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="limited", daemon=True).start()
    try:
        return done.result(seconds)
    except TimeoutError:
        if done.done():
            raise
        raise TransientError(
            "connections.slow",
            f"the other end has not answered within {seconds:g} seconds",
            remedy="Look whether it is reachable from here, and try again.",
        ) from None


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
        if path.rpartition(".")[2] in WHERE_TO and path not in marked and new.get(path) != stored.get(path)
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
