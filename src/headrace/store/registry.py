"""The registry: what packages brought and what was imported, one row for each version of a connector."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from zlib import crc32

from sqlalchemy import Connection as Transaction
from sqlalchemy import Row, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from headrace.errors import ConflictError, NotFoundError
from headrace.model.registry import Origin, RegistryEntry, RegistryStatus
from headrace.store.database import Database
from headrace.store.schema import registry

_LOCK = 0x4EAD7ACF
_ORIGIN = set(Origin.__slots__)
_PLAIN = [name for name in RegistryEntry.__slots__ if name not in ("origin", "status")]


class Registry:
    """Of the whole store. Entries are stored together or not at all."""

    def __init__(self, database: Database):
        self._database = database

    def list(self) -> Sequence[RegistryEntry]:
        """By id."""
        with self._database.read() as transaction:
            return [_read(row) for row in transaction.execute(select(registry).order_by(registry.c.id))]

    def get(self, id: str) -> RegistryEntry:
        with self._database.read() as transaction:
            return _one(transaction, id)

    def put(self, entries: Sequence[RegistryEntry]) -> Sequence[RegistryEntry]:
        """Add each, or change what there is of its connector and version; `created_at` stays, and
        `live_at` once there is one. Other live versions of what is now live are retired.

        Of two who put one connector at once the second waits. Raises ConflictError
        (`store.registry_taken`) when an id belongs to another connector and version.
        """
        try:
            with self._database.write() as transaction:
                self._wait(transaction, {entry.connector_id for entry in entries})
                return [_put(transaction, entry) for entry in entries]
        except IntegrityError:
            raise ConflictError(
                "store.registry_taken",
                "another connector has that id already",
                remedy="Choose another id or version.",
            ) from None

    def move(self, id: str, status: RegistryStatus, *, of: RegistryStatus, **values: Any) -> RegistryEntry:
        """Give the entry a status, if it is `of` another. Raises ConflictError (`store.registry_status`)
        when it is not, NotFoundError."""
        with self._database.write() as transaction:
            self._wait(transaction, {_one(transaction, id).connector_id})
            entry = _one(transaction, id)
            if entry.status is not of:
                raise ConflictError(
                    "store.registry_status",
                    f"{id} is {entry.status.value}, not {of.value}",
                    remedy="See headrace registry list.",
                )
            now = datetime.now(UTC)
            if status is RegistryStatus.LIVE:
                values["live_at"] = entry.live_at or now
                _supersede(transaction, entry.connector_id, id, now)
            change = update(registry).where(registry.c.id == id)
            transaction.execute(change.values(status=status.value, updated_at=now, **values))
            return _one(transaction, id)

    def name(self, digest: str, connector: str | None) -> None:
        """Say what the entries of a package are called in the catalogue."""
        change = update(registry).where(registry.c.digest == digest)
        with self._database.write() as transaction:
            transaction.execute(change.values(connector=connector, updated_at=datetime.now(UTC)))

    def _wait(self, transaction: Transaction, names: set[str]) -> None:
        """Until no other transaction has these connectors; there may be no row yet that could be locked."""
        if self._database.is_sqlite:
            return
        for name in sorted(names):
            number = crc32(name.encode()) - 2**31
            transaction.execute(select(func.pg_advisory_xact_lock(_LOCK, number)))


def _put(transaction: Transaction, entry: RegistryEntry) -> RegistryEntry:
    now = datetime.now(UTC)
    values: dict[str, Any] = _values(entry) | {"updated_at": now}
    same = registry.c.connector_id == entry.connector_id, registry.c.version == entry.version
    known = transaction.execute(select(registry).where(*same).with_for_update()).one_or_none()
    if known is not None:
        values |= {"created_at": known.created_at, "created_by": known.created_by}
        values["live_at"] = known.live_at or entry.live_at
    if entry.status is RegistryStatus.LIVE:
        values["live_at"] = values["live_at"] or now
        _supersede(transaction, entry.connector_id, entry.id, now)
    if known is None:
        transaction.execute(insert(registry).values(values))
    else:
        transaction.execute(update(registry).where(*same).values(values))
    return _one(transaction, entry.id)


def _supersede(transaction: Transaction, connector_id: str, id: str, now: datetime) -> None:
    others = registry.c.connector_id == connector_id, registry.c.id != id
    live = registry.c.status == RegistryStatus.LIVE.value
    change = update(registry).where(*others, live)
    transaction.execute(change.values(status=RegistryStatus.RETIRED.value, updated_at=now))


def _one(transaction: Transaction, id: str) -> RegistryEntry:
    row = transaction.execute(select(registry).where(registry.c.id == id)).one_or_none()
    if row is None:
        raise NotFoundError(
            "store.no_registry_entry",
            f"the registry has no {id}",
            remedy="See headrace registry list.",
        )
    return _read(row)


def _values(entry: RegistryEntry) -> dict[str, Any]:
    values: dict[str, Any] = {name: getattr(entry, name) for name in _PLAIN}
    values |= {"status": entry.status.value}
    values |= {name: getattr(entry.origin, name) for name in _ORIGIN}
    return values | {"report": list(entry.origin.report)}


def _read(row: Row[Any]) -> RegistryEntry:
    found = row._mapping
    origin = {name: found[name] for name in _ORIGIN} | {"report": tuple(found["report"])}
    plain = {name: found[name] for name in _PLAIN}
    return RegistryEntry(**plain, origin=Origin(**origin), status=RegistryStatus(found["status"]))
