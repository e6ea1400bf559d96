"""Uploaded files: what is known of each, and the rows that could not be imported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Connection as Transaction
from sqlalchemy import Row, delete, func, insert, null, select, update

from headrace.errors import ConflictError, NotFoundError, TooLarge
from headrace.model.file import (
    File,
    FileProfile,
    FileReject,
    FileStatus,
    ImportPlan,
    ReadOptions,
    RejectReason,
)
from headrace.model.run import ErrorReport
from headrace.store.database import Database
from headrace.store.page import Page, read_page
from headrace.store.schema import file_rejects, files, workspaces

_OPTIONS = TypeAdapter(ReadOptions)
_PLAN = TypeAdapter(ImportPlan)
_EARLY = (FileStatus.UPLOADED, FileStatus.PREVIEWING)
_PLANNABLE = (*_EARLY, FileStatus.FAILED)
_STARTABLE = (FileStatus.PREVIEWING, FileStatus.FAILED)
_PLAIN = (
    "id", "workspace", "name", "format", "size", "sha256", "key", "created_at", "created_by", "imported",
    "rejected", "completed_at", "removed",
)  # fmt: skip


class Files:
    """Those of one workspace."""

    def __init__(self, database: Database, workspace: str):
        self._database = database
        self._workspace = workspace
        self._mine = files.c.workspace == workspace

    def add(self, file: File, quota: int | None) -> File:
        """Remember a file whose content is complete. Raises TooLarge when the workspace would then hold
        more than `quota` bytes."""
        values = {name: getattr(file, name) for name in _PLAIN} | {
            "status": file.status,
            "options": _OPTIONS.dump_python(file.options, mode="json"),
            "reasons": [],
            "lease": "",
            "holder": "",
            "epoch": 0,
            "touched_at": file.created_at,
            "updated_at": file.created_at,
        }
        with self._database.write() as transaction:
            if quota is not None:
                self._refuse_over(transaction, quota, file.size)
            transaction.execute(insert(files).values(values))
        return file

    def used(self) -> int:
        """Bytes of all content that is still kept."""
        with self._database.read() as transaction:
            return self._used(transaction)

    def get(self, id: str) -> File:
        """Raises NotFoundError."""
        with self._database.read() as transaction:
            return self._get(transaction, id)

    def list(self, *, offset: int = 0, limit: int = 50) -> Page[File]:
        """The newest first, without their profiles."""
        columns = [c if c is not files.c.profile else null().label("profile") for c in files.c]
        query = select(*columns).where(self._mine).order_by(files.c.created_at.desc(), files.c.id)
        with self._database.read() as transaction:
            rows, total = read_page(transaction, query, offset, limit)
        return Page([_read(row) for row in rows], total)

    def begin_preview(self, id: str) -> File:
        """An uploaded file is being looked at; one that is further stays there. It is touched."""
        with self._database.write() as transaction:
            self._change(transaction, id, (FileStatus.UPLOADED,), status=FileStatus.PREVIEWING)
            self._change(transaction, id, tuple(FileStatus), touched_at=_now())
            return self._get(transaction, id)

    def save_profile(self, id: str, options: ReadOptions, found: FileProfile | ErrorReport) -> None:
        """What a pass found, unless the file is to be read in another way by now.

        A file that can't be read has failed.
        """
        same = files.c.options == _OPTIONS.dump_python(options, mode="json")
        with self._database.write() as transaction:
            if isinstance(found, FileProfile):
                self._change(transaction, id, tuple(FileStatus), same, profile=found.to_json())
            else:
                failed = {"status": FileStatus.FAILED, "problem": asdict(found)}
                self._change(transaction, id, _EARLY, same, **failed)

    def plan(self, id: str, plan: ImportPlan | None, options: ReadOptions) -> File:
        """Set where the rows go and how the file is read; a plan of None is for one that is still to come.

        What was found by reading in another way is forgotten. Raises ConflictError
        (`store.file_state`) for one that is being imported, or was.
        """
        plain = _OPTIONS.dump_python(options, mode="json")
        values = {"status": FileStatus.PREVIEWING, "problem": None, "options": plain, "touched_at": _now()}
        values["plan"] = plan_to_json(plan) if plan else None
        with self._database.write() as transaction:
            if self._get(transaction, id).options != options:
                values["profile"] = None
            if not self._change(transaction, id, _PLANNABLE, **values):
                raise _state(self._get(transaction, id), "can't be planned anew")
            return self._get(transaction, id)

    def start(self, id: str) -> File:
        """The import is wanted. Raises ConflictError (`store.file_state`) unless it may begin now."""
        anew: dict[str, Any] = {
            "problem": None,
            "imported": None,
            "rejected": None,
            "reasons": [],
            "touched_at": _now(),
        }
        with self._database.write() as transaction:
            if not self._change(transaction, id, _STARTABLE, status=FileStatus.IMPORTING, **anew):
                raise _state(self._get(transaction, id), "can't be imported now")
            transaction.execute(delete(file_rejects).where(file_rejects.c.file == id))
            return self._get(transaction, id)

    def delete(self, id: str) -> None:
        """Raises NotFoundError, and ConflictError (`store.file_state`) while it is imported."""
        with self._database.write() as transaction:
            found = self._get(transaction, id)
            if found.status is FileStatus.IMPORTING:
                raise _state(found, "can't be deleted now")
            transaction.execute(delete(files).where(self._mine, files.c.id == id))

    def rejects(self, id: str, *, offset: int = 0, limit: int = 50) -> Page[FileReject]:
        """In the order of the file. Raises NotFoundError."""
        query = select(file_rejects).where(file_rejects.c.file == id).order_by(file_rejects.c.number)
        with self._database.read() as transaction:
            self._get(transaction, id)
            rows, total = read_page(transaction, query, offset, limit)
        return Page([FileReject(**{n: row._mapping[n] for n in FileReject.__slots__}) for row in rows], total)

    def _change(
        self, transaction: Transaction, id: str, states: Sequence[FileStatus], *where: Any, **values: Any
    ) -> bool:
        change = update(files).where(self._mine, files.c.id == id, files.c.status.in_(states), *where)
        return bool(transaction.execute(change.values(updated_at=_now(), **values)).rowcount)

    def _get(self, transaction: Transaction, id: str) -> File:
        row = transaction.execute(select(files).where(self._mine, files.c.id == id)).one_or_none()
        if row is None:
            raise NotFoundError("store.no_file", f"there is no file {id}", remedy="Check the id.")
        return _read(row)

    def _used(self, transaction: Transaction) -> int:
        query = select(func.coalesce(func.sum(files.c.size), 0)).where(self._mine, files.c.removed.is_(False))
        return int(transaction.execute(query).scalar_one())

    def _refuse_over(self, transaction: Transaction, quota: int, size: int) -> None:
        # one upload after the other, so that two together do not pass the quota
        transaction.execute(
            select(workspaces.c.id).where(workspaces.c.id == self._workspace).with_for_update()
        )
        if self._used(transaction) + size > quota:
            raise over_quota(quota)


def plan_to_json(plan: ImportPlan) -> dict[str, Any]:
    plain: dict[str, Any] = _PLAN.dump_python(plan, mode="json")
    return plain


def over_quota(quota: int) -> TooLarge:
    return TooLarge(
        "files.quota",
        f"the files of this workspace would take more than {quota >> 20} MiB",
        field="file",
        remedy="Delete files that are imported, or ask the operator for more room.",
    )


def _state(file: File, what: str) -> ConflictError:
    return ConflictError(
        "store.file_state",
        f"{file.name} is {file.status} and {what}",
        remedy="Look at its status; upload the file again to import it once more.",
    )


def _read(row: Row[Any]) -> File:
    return File(
        **{name: getattr(row, name) for name in _PLAIN},
        status=FileStatus(row.status),
        options=_OPTIONS.validate_python(row.options),
        plan=_PLAN.validate_python(row.plan) if row.plan else None,
        profile=FileProfile.from_json(row.profile) if row.profile else None,
        error=ErrorReport(**row.problem) if row.problem else None,
        reasons=tuple(RejectReason(**reason) for reason in row.reasons),
    )


def _now() -> datetime:
    return datetime.now(UTC)
