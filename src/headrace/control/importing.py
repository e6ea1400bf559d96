"""Import a file: read it in a process with bounds, and publish its rows once, by the engine like any load."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field, replace
from typing import IO, Any

import pyarrow as pa

from headrace import catalog
from headrace.connector import (
    EVERYTHING,
    Batch,
    Capability,
    Checkpoint,
    Config,
    ConnectorSpec,
    Event,
    Position,
    Reject,
    Selection,
    Slice,
    Source,
    Stream,
    StreamRead,
    Target,
    Token,
    WriteMode,
)
from headrace.connector.target import Saved, StagedSlice
from headrace.connector.upload.process import Limits, Parsing
from headrace.connector.upload.profile import chosen_type, unpack_schema
from headrace.control.content import Content
from headrace.control.endpoint import Endpoint
from headrace.control.lease import TTL, alive, holder
from headrace.engine.plan import Job
from headrace.engine.retry import again, delay, report
from headrace.engine.run import execute
from headrace.engine.stop import Stop
from headrace.errors import ConflictError, DataError, Fenced, HeadraceError, TransientError
from headrace.model.file import File, FileProfile, FileReject, ImportMode, ImportPlan, RejectReason
from headrace.model.pipeline import Pipeline, StreamChoice, Tuning
from headrace.model.run import Counts, ErrorReport, StreamProgress, StreamStatus
from headrace.model.stream import join_name
from headrace.store import Store
from headrace.store.imports import ImportLease

bugs = logging.getLogger("headrace.bugs")

_BEAT = TTL.total_seconds() / 3
_ROW_BYTES = 32 << 20
_SPEC = ConnectorSpec(
    name="upload",
    title="Uploaded file",
    version="1",
    config=Config,
    capabilities=frozenset({Capability.FULL}),
)
_TUNING = Tuning(parallelism=1, queue_bytes=_ROW_BYTES, reject_limit=None, max_retries=3)

Targets = Callable[[str], Endpoint]
"""The workspace's default target for tables; raises ConfigError when there is none."""
Keep = Callable[[Sequence[FileReject]], None]


def columns_of(plan: ImportPlan, schema: pa.Schema) -> dict[str, pa.Field]:
    """By the name in the file: each column that is imported, as it shall stand in the table."""
    found = {}
    for column in schema:
        if name := plan.columns.get(column.name, column.name):
            wanted = plan.types.get(column.name)
            found[column.name] = pa.field(name, chosen_type(wanted, column.type) if wanted else column.type)
    return found


@dataclass
class FileSource(Source[Config]):
    """One file as the one slice of a load.

    Rows that can't be imported are told to `keep` as they come, the first of them in full; in the
    batches all of them are skipped rows, by their code.
    """

    file: File
    profile: FileProfile
    plan: ImportPlan
    stream: Stream
    open: Callable[[], AbstractContextManager[IO[bytes]]]
    limits: Limits
    keep: Keep
    seen: dict[str, int] = field(default_factory=dict)
    _parsing: Parsing | None = None

    def check(self) -> None:
        """There is nothing to connect to."""

    def discover(self, selection: Selection = EVERYTHING) -> Iterable[Stream]:
        return [self.stream]

    def slices(self, reads: Sequence[StreamRead], since: Mapping[str, Position]) -> Iterable[Slice]:
        return [Slice(key=self.file.id, reads=tuple(reads), until={"file": self.file.sha256})]

    def read(self, slice: Slice, since: Position) -> Iterator[Event]:
        columns = columns_of(self.plan, unpack_schema(self.profile))
        schema = pa.schema([(name, column.type) for name, column in columns.items()])
        names = [column.name for column in columns.values()]
        self.seen.clear()
        good = 0
        with self.open() as content, Parsing.of(self.file, content, self.limits) as parsing:
            self._parsing = parsing
            for rows, rejects, more in parsing.rows(schema):
                if rows is None:
                    yield Checkpoint({})
                    continue
                self.keep(rejects)
                skipped = self._count(rejects, more)
                self._refuse_too_many()
                good += rows.num_rows
                yield Batch(self.stream.id, rows.rename_columns(names), skipped=skipped)
        if self.seen and not good:
            raise DataError(
                "files.no_good_rows",
                f"none of the {self.rejected} rows of {self.file.name} could be imported",
                field="file",
                remedy="Look at the rejected rows, then correct the file or its columns' types.",
            )

    @property
    def rejected(self) -> int:
        return sum(self.seen.values())

    def interrupt(self) -> None:
        if self._parsing is not None:
            self._parsing.interrupt()

    def _count(self, rejects: Sequence[FileReject], more: Mapping[str, int]) -> dict[str, int]:
        skipped = dict(more)
        for reject in rejects:
            skipped[reject.code] = skipped.get(reject.code, 0) + 1
        for code, count in skipped.items():
            self.seen[code] = self.seen.get(code, 0) + count
        return skipped

    def _refuse_too_many(self) -> None:
        limit = self.plan.max_rejected
        if limit is not None and self.rejected > limit:
            raise DataError(
                "files.too_many_rejects",
                f"more than {limit} rows of {self.file.name} were rejected",
                field="max_rejected",
                remedy="Look at the rejected rows; correct the file, or allow more.",
            )


class _State:
    """Fits the engine's `State`: what an import needs remembered beyond its table is only its lease."""

    def __init__(self, store: Store, lease: ImportLease):
        self._store, self.lease = store, lease
        self.run = lease.file

    @property
    def epoch(self) -> int:
        return self.lease.epoch

    def raise_epoch(self, at_least: int) -> int:
        self.lease = self._store.imports.raise_epoch(self.lease, at_least)
        return self.lease.epoch

    def load_staged(self, stream: str) -> list[StagedSlice]:
        return []  # a file is read again rather than resumed

    def save_staged(self, stream: str, done: StagedSlice) -> None:
        """The last moment to notice a takeover before the publish, which the target fences as well."""
        self._store.imports.renew(self.lease, TTL)

    def drop_staged(self, stream: str) -> None: ...

    def load(self, slice_key: str) -> Saved | None:
        return None

    def save(
        self,
        slice_key: str,
        position: Position,
        tokens: Mapping[str, Token],
        committed: Mapping[str, Counts] | None = None,
    ) -> None: ...

    def seen(self, stream: str, counts: Counts) -> None: ...

    def reject(self, rejects: Iterable[Reject]) -> None: ...

    def progress(self, progress: StreamProgress) -> None: ...

    def log(self, level: str, message: str, stream: str | None = None) -> None: ...


class Importer:
    """Works on the imports that wait, one at a time, also on those of workers that died."""

    def __init__(self, store: Store, content: Content, limits: Limits, targets: Targets):
        self._store, self._content, self._limits, self._targets = store, content, limits, targets

    def step(self, stop: Stop) -> bool:
        """Import one file to its end; False when none waits."""
        imports = self._store.imports
        dead = [name for name in imports.holders() if not alive(name)]
        claimed = imports.claim(holder(), TTL, dead)
        if claimed is None:
            return False
        file, lease = claimed
        ended = Stop(stop)
        done = threading.Event()
        heart = threading.Thread(target=self._beat, args=(lease, ended, done), name="import", daemon=True)
        heart.start()
        try:
            self._import(file, lease, ended)
        except Fenced:
            pass  # a newer worker carries on
        finally:
            done.set()
            heart.join()
            imports.release(lease)
        return True

    def _import(self, file: File, lease: ImportLease, stop: Stop) -> None:
        for tried in range(1, _TUNING.max_retries + 2):
            attempt = _Attempt(self._store, self._content, self._limits, file, lease)
            try:
                counts = attempt.run(self._targets(file.workspace), stop)
            except Fenced:
                raise
            except HeadraceError as error:
                if stop.draining:
                    return
                if isinstance(error, TransientError) and again(error, tried, _TUNING):
                    stop.pause(delay(_TUNING, tried).total_seconds())
                    continue
                attempt.fail(error)
            except Exception as bug:
                bugs.exception("the import of %s ended by a bug", file.id)
                attempt.fail(report(bug))
            else:
                if counts is not None:
                    attempt.succeed(counts)
            return

    def _beat(self, lease: ImportLease, stop: Stop, done: threading.Event) -> None:
        missed = 0
        while not done.wait(_BEAT):
            try:
                self._store.imports.renew(lease, TTL)
                missed = 0
            except Fenced:
                stop.abort()
                return
            except TransientError:
                missed += 1
                if missed * _BEAT >= TTL.total_seconds():
                    stop.abort()
                    return


class _Attempt:
    def __init__(self, store: Store, content: Content, limits: Limits, file: File, lease: ImportLease):
        self._store, self._content, self._limits = store, content, limits
        self._file, self._state = file, _State(store, lease)
        self._kept = 0  # rejects told to the store
        self._source: FileSource | None = None

    def run(self, endpoint: Endpoint, stop: Stop) -> Counts | None:
        """The counts of the import when it is done; None when it was told to end before."""
        plan, profile = self._file.plan, self._file.profile
        assert plan is not None and profile is not None, "no import begins without them"
        columns = columns_of(plan, unpack_schema(profile))
        stream = Stream(name=plan.table, namespace=plan.namespace, schema=pa.schema(list(columns.values())))
        write = WriteMode.REPLACE if plan.mode is ImportMode.REPLACE else WriteMode.APPEND
        source = self._source = FileSource(
            file=self._file, profile=profile, plan=plan, stream=stream, limits=self._limits, keep=self._keep,
            open=lambda: self._content.borrow(self._file.key),
        )  # fmt: skip
        with closing(endpoint.target()) as target:
            self._prepare(target, stream, write, plan)
        job = Job(
            pipeline=Pipeline(
                id=self._file.id, name=self._file.name, source="upload", target=endpoint.name,
                streams=(StreamChoice(stream=stream.id, write=write, target=join_name(*_parts(stream))),),
                tuning=_TUNING,
            ),
            source_spec=_SPEC,
            target_spec=endpoint.spec,
            source=lambda: source,
            target=endpoint.target,
            transform=catalog.transform,
        )  # fmt: skip
        (progress,) = execute(job, self._state, stop)
        if progress.status is StreamStatus.SUCCEEDED:
            return progress.counts
        if progress.error is not None:
            raise _error(progress.error)
        return None

    def _prepare(self, target: Target[Any], stream: Stream, write: WriteMode, plan: ImportPlan) -> None:
        """Make the table fit. The engine itself gives no columns to a table of somebody else."""
        if plan.mode is ImportMode.FAIL_IF_EXISTS:
            if target.describe(stream) is not None and target.committed(stream, self._file.id) is None:
                raise ConflictError(
                    "files.table_exists",
                    f"there is a table {stream.id} already",
                    field="table",
                    remedy="Choose another table, or let the import add to it or replace it.",
                )
            # a worker that comes after us finds the table that is made now
            self._store.imports.replan(self._state.lease, replace(plan, mode=ImportMode.APPEND))
        target.prepare(stream, write)

    def _keep(self, rejects: Sequence[FileReject]) -> None:
        self._store.imports.keep_rejects(self._state.lease, self._kept, rejects)
        self._kept += len(rejects)

    def succeed(self, counts: Counts) -> None:
        rejected = sum(counts.skipped.values())
        self._store.imports.finish(
            self._state.lease, (counts.written, rejected), self._reasons(counts.skipped), None
        )

    def fail(self, error: HeadraceError) -> None:
        seen = self._source.seen if self._source else {}
        counts = (0, sum(seen.values())) if seen else None
        self._store.imports.finish(self._state.lease, counts, self._reasons(seen), ErrorReport.of(error))

    def _reasons(self, counts: Mapping[str, int]) -> list[RejectReason]:
        """The most frequent first."""
        firsts = self._store.imports.first_rejects(self._state.lease)
        return [
            RejectReason(code=code, count=count, first_line=firsts[code].line, example=firsts[code].message)
            for code, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
            if code in firsts
        ]


def _parts(stream: Stream) -> tuple[str, ...]:
    return (*(stream.namespace or "").split("."), stream.name) if stream.namespace else (stream.name,)


def _error(told: ErrorReport) -> HeadraceError:
    """The error that a stream ended with, of a class that says what to do about it."""
    kind = TransientError if told.exit_code == TransientError.exit_code else DataError
    return kind(told.code, told.message, field=told.field, remedy=told.remedy)
