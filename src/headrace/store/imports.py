"""Imports of files that wait or are under way, of all workspaces: who works on each, under which epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import ColumnElement, func, or_, select, update
from sqlalchemy import Connection as Transaction

from headrace.errors import Fenced
from headrace.model.file import File, FileReject, FileStatus, ImportPlan, RejectReason
from headrace.model.run import ErrorReport
from headrace.store.database import Database
from headrace.store.files import Files, plan_to_json
from headrace.store.schema import file_rejects, files


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportLease:
    """The right to import a file; `id` is new at each takeover, and `epoch` grows."""

    id: str
    file: str
    workspace: str
    holder: str
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Content in the storage that nobody needs any more."""

    file: str
    key: str


class Imports:
    def __init__(self, database: Database):
        self._database = database

    def waits(self, dead: Sequence[str] = ()) -> bool:
        """Is there an import that `claim` would give?"""
        with self._database.read() as transaction:
            free = self._free(self._database.now(transaction), dead)
            return transaction.execute(select(files.c.id).where(*free).limit(1)).first() is not None

    def claim(
        self, holder: str, ttl: timedelta, dead: Sequence[str] = (), *, only: str | None = None
    ) -> tuple[File, ImportLease] | None:
        """Take the next import that nobody works on, with the next epoch; None when there is none.

        `dead` are holders of whom the caller knows that they are gone; `only` asks for what one of them
        has left.
        """
        with self._database.write() as transaction:
            now = self._database.now(transaction)
            query = select(files).where(*self._free(now, dead))
            if only is not None:
                query = query.where(files.c.holder == only)
            query = query.order_by(files.c.touched_at).limit(1).with_for_update(skip_locked=True)
            row = transaction.execute(query).one_or_none()
            if row is None:
                return None
            lease = ImportLease(
                id=str(uuid4()), file=row.id, workspace=row.workspace, holder=holder, epoch=row.epoch + 1
            )
            taken = {"lease": lease.id, "holder": holder, "epoch": lease.epoch, "expires_at": now + ttl}
            transaction.execute(update(files).where(files.c.id == row.id).values(updated_at=_now(), **taken))
        return Files(self._database, row.workspace).get(row.id), lease

    @staticmethod
    def _free(now: datetime, dead: Sequence[str]) -> tuple[ColumnElement[bool], ...]:
        free = or_(files.c.expires_at.is_(None), files.c.expires_at <= now, files.c.holder.in_(dead))
        return files.c.status == FileStatus.IMPORTING, free

    def holders(self) -> list[str]:
        """Who works on an import now, as far as their leases tell."""
        query = select(files.c.holder).where(files.c.status == FileStatus.IMPORTING, files.c.holder != "")
        with self._database.read() as transaction:
            return list(transaction.scalars(query.distinct()))

    def renew(self, lease: ImportLease, ttl: timedelta) -> None:
        """Hold on for `ttl` from now. Raises Fenced (`store.import_lost`)."""
        with self._held(lease) as transaction:
            until = self._database.now(transaction) + ttl
            self._set(transaction, lease, expires_at=until)

    def release(self, lease: ImportLease, *, after: timedelta = timedelta()) -> None:
        """Let others in, at once or later; does nothing when it was taken over."""
        with self._database.write() as transaction:
            mine = files.c.id == lease.file, files.c.lease == lease.id
            until = self._database.now(transaction) + after
            transaction.execute(update(files).where(*mine).values(expires_at=until, holder=""))

    def raise_epoch(self, lease: ImportLease, at_least: int) -> ImportLease:
        """Raises Fenced (`store.import_lost`)."""
        with self._held(lease) as transaction:
            epoch = max(lease.epoch, at_least)
            self._set(transaction, lease, epoch=epoch)
        return replace(lease, epoch=epoch)

    def keep_rejects(self, lease: ImportLease, first: int, rejects: Sequence[FileReject]) -> None:
        """Store rejects, of which the first has number `first`; those that are there already stay."""
        rows = [
            {"file": lease.file, "number": number, **asdict(reject)}
            for number, reject in enumerate(rejects, first)
        ]
        if rows:
            with self._held(lease) as transaction:
                transaction.execute(self._database.add(file_rejects), rows)

    def first_rejects(self, lease: ImportLease) -> dict[str, FileReject]:
        """The first of each code."""
        mine = file_rejects.c.file == lease.file
        firsts = select(func.min(file_rejects.c.number)).where(mine).group_by(file_rejects.c.code)
        query = select(file_rejects).where(mine, file_rejects.c.number.in_(firsts))
        with self._database.read() as transaction:
            rows = transaction.execute(query).all()
        return {row.code: FileReject(**{n: row._mapping[n] for n in FileReject.__slots__}) for row in rows}

    def replan(self, lease: ImportLease, plan: ImportPlan) -> None:
        """Remember a plan in place of the one the import began with. Raises Fenced."""
        with self._held(lease) as transaction:
            self._set(transaction, lease, plan=plan_to_json(plan))

    def finish(
        self,
        lease: ImportLease,
        counts: tuple[int, int] | None,
        reasons: Sequence[RejectReason],
        error: ErrorReport | None,
    ) -> None:
        """The import has succeeded, or failed with `error`; `counts` are the rows imported and rejected.

        Raises Fenced (`store.import_lost`).
        """
        now = _now()
        imported, rejected = counts or (None, None)
        with self._held(lease) as transaction:
            self._set(
                transaction,
                lease,
                status=FileStatus.FAILED if error else FileStatus.COMPLETED,
                imported=imported,
                rejected=rejected,
                reasons=[asdict(reason) for reason in reasons],
                problem=asdict(error) if error else None,
                completed_at=now,
                touched_at=now,
                expires_at=None,
                holder="",
            )

    def outdated(self, before: datetime) -> list[Kept]:
        """Content of files that nobody touched since."""
        idle = files.c.removed.is_(False), files.c.touched_at < before
        query = select(files.c.id, files.c.key).where(files.c.status != FileStatus.IMPORTING, *idle)
        with self._database.read() as transaction:
            return [Kept(file=row.id, key=row.key) for row in transaction.execute(query)]

    def removed(self, ids: Sequence[str]) -> None:
        """Their content is gone."""
        with self._database.write() as transaction:
            transaction.execute(update(files).where(files.c.id.in_(ids)).values(removed=True))

    def unknown(self, ids: Sequence[str]) -> set[str]:
        """Those of the ids that are of no file."""
        with self._database.read() as transaction:
            return set(ids) - set(transaction.scalars(select(files.c.id).where(files.c.id.in_(ids))))

    def _set(self, transaction: Transaction, lease: ImportLease, **values: Any) -> None:
        change: Mapping[str, Any] = {"updated_at": _now(), **values}
        transaction.execute(update(files).where(files.c.id == lease.file).values(change))

    @contextmanager
    def _held(self, lease: ImportLease) -> Iterator[Transaction]:
        with self._database.write() as transaction:
            query = select(files.c.lease, files.c.status).where(files.c.id == lease.file).with_for_update()
            row = transaction.execute(query).one_or_none()
            if row is None or row.lease != lease.id or row.status != FileStatus.IMPORTING:
                raise Fenced(
                    "store.import_lost",
                    f"{lease.holder} lost the import of file {lease.file} (epoch {lease.epoch})",
                    remedy="Nothing to do: the newer worker carries on.",
                )
            yield transaction


def _now() -> datetime:
    return datetime.now(UTC)
