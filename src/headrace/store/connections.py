"""Connections: settings in the open, secrets under seal and never shown."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Connection as Transaction
from sqlalchemy import Executable, Row, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from headrace.connector.config import HIDDEN
from headrace.errors import ConfigError, ConflictError, NotFoundError
from headrace.model.connection import Connection, Tested
from headrace.store.database import Database
from headrace.store.schema import connections
from headrace.store.schema import secrets as sealed_secrets
from headrace.store.secrets import MasterKeys, Place, Sealed

_TESTED: TypeAdapter[Tested | None] = TypeAdapter(Tested | None)


class Connections:
    """Those of one workspace. Every save is a compare-and-set on `version`, 0 for one never saved."""

    def __init__(self, database: Database, keys: MasterKeys, workspace: str):
        self._database = database
        self._keys = keys
        self._workspace = workspace
        self._mine = connections.c.workspace == workspace

    def save(
        self, connection: Connection, secrets: Mapping[str, str] | None = None, *, marks: bool = True
    ) -> Connection:
        """Store the connection; gives it back with its next version and the names of all its secrets.

        `secrets` maps dotted paths of settings to text to seal, or to `HIDDEN` to keep what is sealed
        there; without `marks`, `HIDDEN` is text like any other. Those named in `connection.secrets` are
        kept as well, all others are forgotten. Raises ConflictError when it was changed meanwhile
        (`store.changed`), ConfigError for a secret to keep that is not there (`store.no_secret`).
        """
        given = {path: text for path, text in (secrets or {}).items() if not marks or text != HIDDEN}
        names = sorted({*connection.secrets, *(secrets or {})})
        for path in names:
            _refuse_in_the_open(connection, path)
        now = datetime.now(UTC)
        made = connection.created_at or now
        saved = replace(connection, version=connection.version + 1, secrets=tuple(names))
        saved = replace(saved, created_at=made, updated_at=now)
        values = {
            "name": saved.name,
            "team": saved.team,
            "connector": saved.connector,
            "settings": dict(saved.settings),
            "tested": _TESTED.dump_python(saved.tested, mode="json"),
            "streams": saved.streams,
            "extras": dict(saved.extras),
            "version": saved.version,
            "updated_at": now,
        }
        with self._database.write() as transaction:
            try:
                if connection.version == 0:
                    transaction.execute(self._new(saved.id, made, values))
                    done = True
                else:
                    same = connections.c.id == saved.id, connections.c.version == connection.version
                    change = update(connections).where(self._mine, *same).values(values)
                    done = transaction.execute(change).rowcount == 1
            except IntegrityError:
                done = False  # that id was given to another one
            if not done:
                raise ConflictError(
                    "store.changed",
                    f"connection {saved.name!r} was changed or deleted by somebody else meanwhile",
                    remedy="Read it again, then repeat the change.",
                )
            self._save_secrets(transaction, saved, given)
        return saved

    def note(self, connection: Connection, **found: Any) -> None:
        """Remember `tested` or `streams`; nothing happens if it was changed since it was read."""
        plain = {
            name: _TESTED.dump_python(value, mode="json") if name == "tested" else value
            for name, value in found.items()
        }
        same = connections.c.id == connection.id, connections.c.version == connection.version
        with self._database.write() as transaction:
            transaction.execute(update(connections).where(self._mine, *same).values(plain))

    def get(self, id: str) -> Connection:
        return self._one(connections.c.id == id, id)

    def by_name(self, name: str) -> Connection:
        """Raises ConflictError (`store.ambiguous`) where several are called so."""
        return self._one(connections.c.name == name, repr(name))

    def list(self) -> list[Connection]:
        """All of them, by name."""
        with self._database.read() as transaction:
            names: dict[str, list[str]] = {}
            fields = select(sealed_secrets.c.connection, sealed_secrets.c.field)
            for row in transaction.execute(fields.join(connections).where(self._mine)):
                names.setdefault(row.connection, []).append(row.field)
            rows = transaction.execute(select(connections).where(self._mine).order_by(connections.c.name))
            return [_read(row, names.get(row.id, [])) for row in rows]

    def delete(self, id: str) -> None:
        """Raises ConflictError (`store.in_use`) while a pipeline reads or writes by it."""
        with self._database.write() as transaction:
            try:
                done = transaction.execute(delete(connections).where(self._mine, connections.c.id == id))
            except IntegrityError:
                raise ConflictError(
                    "store.in_use",
                    f"connection {id} is used by a pipeline",
                    remedy="Delete the pipelines that use it first.",
                ) from None
            if not done.rowcount:
                raise _missing(id)

    def settings(self, id: str) -> dict[str, Any]:
        """The raw settings with the secrets in their places: for opening the connection, never to show."""
        with self._database.read() as transaction:
            row = transaction.execute(
                select(connections).where(self._mine, connections.c.id == id)
            ).one_or_none()
            if row is None:
                raise _missing(id)
            secrets = transaction.execute(
                select(sealed_secrets).where(sealed_secrets.c.connection == id)
            ).all()
        settings: dict[str, Any] = copy.deepcopy(row.settings)
        for secret in secrets:
            *outer, name = secret.field.split(".")
            place = settings
            for part in outer:
                place = place.setdefault(part, {})
            place[name] = self._keys.open(_sealed(secret), self._place(id, secret.field))
        return settings

    def rotate(self) -> int:
        """Wrap every data key, of all workspaces, with the current master key; gives how many were not.

        Secrets stay readable throughout. Raises ConfigError, with nothing changed, when one of the
        old master keys is not here.
        """
        table = sealed_secrets
        with self._database.write() as transaction:
            rows = transaction.execute(
                select(table, connections.c.workspace)
                .join(connections)
                .where(table.c.key_id != self._keys.current)
                .with_for_update(of=table)
            ).all()
            for row in rows:
                place = Place(row.workspace, row.connection, row.field)
                again = self._keys.rewrap(_sealed(row), place)
                transaction.execute(
                    update(table)
                    .where(table.c.connection == row.connection, table.c.field == row.field)
                    .values(key_id=again.key_id, wrapped=again.wrapped, updated_at=datetime.now(UTC))
                )
        return len(rows)

    def _new(self, id: str, made: datetime, values: Mapping[str, Any]) -> Executable:
        return insert(connections).values(id=id, workspace=self._workspace, created_at=made, **values)

    def _place(self, id: str, field: str) -> Place:
        return Place(self._workspace, id, field)

    def _one(self, condition: Any, label: str) -> Connection:
        with self._database.read() as transaction:
            rows = transaction.execute(select(connections).where(self._mine, condition).limit(2)).all()
            if not rows:
                raise _missing(label)
            if len(rows) > 1:
                raise ambiguous("connection", label)
            return _read(rows[0], _secret_names(transaction, rows[0].id))

    def _save_secrets(self, transaction: Transaction, saved: Connection, given: Mapping[str, str]) -> None:
        table = sealed_secrets
        kept = set(_secret_names(transaction, saved.id))
        for path in saved.secrets:
            if path not in given and path not in kept:
                raise ConfigError(
                    "store.no_secret",
                    f"connection {saved.name!r} has no secret {path!r} to keep",
                    field=path,
                    remedy="Give the secret itself.",
                )
        gone = [path for path in kept if path in given or path not in saved.secrets]
        transaction.execute(delete(table).where(table.c.connection == saved.id, table.c.field.in_(gone)))
        now = datetime.now(UTC)
        for path, text in given.items():
            sealed = self._keys.seal(text, self._place(saved.id, path))
            transaction.execute(
                insert(table).values(
                    connection=saved.id,
                    field=path,
                    key_id=sealed.key_id,
                    wrapped=sealed.wrapped,
                    sealed=sealed.sealed,
                    created_at=now,
                    updated_at=now,
                )
            )


def _read(row: Row[Any], secrets: list[str]) -> Connection:
    return Connection(
        id=row.id,
        name=row.name,
        connector=row.connector,
        settings=row.settings,
        secrets=tuple(sorted(secrets)),
        team=row.team,
        version=row.version,
        tested=_TESTED.validate_python(row.tested),
        streams=None if row.streams is None else tuple(row.streams),
        extras=row.extras,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _secret_names(transaction: Transaction, id: str) -> list[str]:
    field = sealed_secrets.c.field
    return list(transaction.scalars(select(field).where(sealed_secrets.c.connection == id)))


def _sealed(row: Row[Any]) -> Sealed:
    return Sealed(row.key_id, row.wrapped, row.sealed)


def ambiguous(what: str, label: str) -> ConflictError:
    return ConflictError(
        "store.ambiguous", f"there are several {what}s {label}", remedy="Name the one you mean by its id."
    )


def _missing(label: str) -> NotFoundError:
    return NotFoundError(
        "store.no_connection",
        f"there is no connection {label}",
        remedy="List the connections, and check the name.",
    )


def _refuse_in_the_open(connection: Connection, path: str) -> None:
    place: Any = connection.settings
    for part in path.split("."):
        if not isinstance(place, Mapping) or part not in place:
            return
        place = place[part]
    raise ConfigError(
        "store.secret_in_settings",
        f"the settings of connection {connection.name!r} hold the secret {path!r} in the open",
        field=path,
        remedy="Pass it among the secrets, and leave it out of the settings.",
    )
