"""One attempt of a run: what the engine has remembered, every write of it under the lease."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection, delete, select, update

from headrace.connector.target import Saved, Staged, StagedSlice, Token
from headrace.errors import ConflictError, Fenced, HeadraceError, TransientError
from headrace.model.event import Reject
from headrace.model.run import Counts, ErrorReport, RunStatus, StreamProgress
from headrace.model.stream import Position, Slice
from headrace.store.database import Database
from headrace.store.leases import Lease, hold
from headrace.store.runs import add_lines, lock_run, one_line
from headrace.store.schema import (
    attempts,
    checkpoint_tokens,
    checkpoints,
    leases,
    run_streams,
    runs,
    slices,
)
from headrace.store.schema import rejects as dead_letters

FLUSH_SECONDS = 0.5
"""How long log lines and progress may wait before they are written."""

_WAITING_LINES = 10_000


class Attempt:
    """Fits the engine's `State`; from any thread. `close` always follows, with the error if there is one.

    Log lines and progress are written behind the caller's back, within a second and at `close`; when
    that finds the lease lost, the next of these calls raises.
    """

    def __init__(self, database: Database, run: str, lease: Lease):
        self._database = database
        self.run = run
        self._lease = lease
        self._waiting = threading.Lock()
        self._flushing = threading.Lock()
        self._lines: deque[dict[str, Any]] = deque(maxlen=_WAITING_LINES)
        self._streams: dict[str, StreamProgress] = {}
        self._latest: dict[str, StreamProgress] = {}
        self._committed: dict[str, Counts] = {}
        self._lost: Fenced | None = None
        self._closed = threading.Event()
        self._begin()
        self._flusher = threading.Thread(target=self._flush_often, name=f"log of {run}", daemon=True)
        self._flusher.start()

    @property
    def epoch(self) -> int:
        return self._epoch

    def raise_epoch(self, at_least: int) -> int:
        """The lease stays the same, and may be renewed and released by the value first acquired."""
        with self._database.write() as transaction:
            epoch = max(hold(transaction, self._lease, alone=True), at_least)
            mine = leases.c.pipeline == self._lease.pipeline
            transaction.execute(update(leases).where(mine).values(epoch=epoch, updated_at=_now()))
            this = attempts.c.run == self.run, attempts.c.number == self._number
            transaction.execute(update(attempts).where(*this).values(epoch=epoch))
        self._epoch = epoch
        return epoch

    def load_staged(self, stream: str) -> list[StagedSlice]:
        mine = slices.c.pipeline == self._lease.pipeline, slices.c.stream == stream
        with self._database.read() as transaction:
            rows = transaction.execute(select(slices).where(*mine).order_by(slices.c.key)).all()
        return [
            StagedSlice(
                slice=Slice.from_json(row.slice),
                staged=Staged.from_json(row.staged),
                counts=Counts.from_json(row.counts),
                fingerprint=row.fingerprint,
                epoch=row.epoch,
            )
            for row in rows
        ]

    def save_staged(self, stream: str, done: StagedSlice) -> None:
        row = {
            "pipeline": self._lease.pipeline,
            "stream": stream,
            "key": done.slice.key,
            "slice": done.slice.to_json(),
            "staged": done.staged.to_json(),
            "counts": done.counts.to_json(),
            "fingerprint": done.fingerprint,
            "epoch": self._epoch,
        }
        with self._write() as transaction:
            transaction.execute(self._database.put(slices), row | _stamps())

    def drop_staged(self, stream: str) -> None:
        mine = slices.c.pipeline == self._lease.pipeline, slices.c.stream == stream
        with self._write() as transaction:
            transaction.execute(delete(slices).where(*mine))

    def load(self, slice_key: str) -> Saved | None:
        at, tokens = checkpoints, checkpoint_tokens
        mine = self._lease.pipeline
        with self._database.read() as transaction:
            position = transaction.execute(
                select(at.c.position).where(at.c.pipeline == mine, at.c.slice == slice_key)
            ).scalar_one_or_none()
            if position is None:
                return None
            rows = transaction.execute(
                select(tokens).where(tokens.c.pipeline == mine, tokens.c.slice == slice_key)
            )
            return Saved(
                position=position,
                tokens={
                    row.stream: Token(
                        pipeline=mine, epoch=row.epoch, sequence=row.sequence, position=row.position
                    )
                    for row in rows
                },
            )

    def save(
        self,
        slice_key: str,
        position: Position,
        tokens: Mapping[str, Token],
        committed: Mapping[str, Counts] | None = None,
    ) -> None:
        """Raises ConflictError (`store.sequence_regressed`), and saves nothing, when a sequence goes down."""
        with self._flushing:
            known = {**self._committed, **(committed or {})}
            with self._write() as transaction:
                self._save_position(transaction, slice_key, position)
                for stream, token in sorted(tokens.items()):
                    self._save_token(transaction, slice_key, stream, token)
                if committed:
                    self._save_committed(transaction, known, committed)
            self._committed = known

    def reject(self, rejects: Iterable[Reject]) -> None:
        rows = [self._reject_row(reject) for reject in rejects]
        if not rows:
            return
        # In one order for all threads, so that two of them never wait for each other.
        rows.sort(key=lambda row: (row["stream"], row["where_hash"]))
        with self._write() as transaction:
            transaction.execute(self._database.add(dead_letters), rows)

    def progress(self, progress: StreamProgress) -> None:
        with self._waiting:
            self._raise_lost()
            self._streams[progress.stream] = self._latest[progress.stream] = progress

    def log(self, level: str, message: str, stream: str | None = None) -> None:
        line = {"at": _now(), "level": level, "message": one_line(message), "stream": stream}
        with self._waiting:
            self._raise_lost()
            self._lines.append(line)

    def flush(self) -> None:
        """Write what waits; all of it keeps waiting when the store is away."""
        with self._flushing:
            with self._waiting:
                lines, streams = list(self._lines), dict(self._streams)
            if not lines and not streams:
                return
            try:
                with self._write() as transaction:
                    if streams:
                        rows = [self._progress_row(p, self._committed) for p in streams.values()]
                        transaction.execute(self._database.put(run_streams), rows)
                    add_lines(transaction, self.run, lines)
            except Fenced as lost:
                self._lost = lost
                raise
            with self._waiting:
                for line in lines:
                    if self._lines and self._lines[0] is line:  # unless newer ones pushed it out
                        self._lines.popleft()
                for stream, progress in streams.items():
                    if self._streams.get(stream) is progress:
                        del self._streams[stream]

    def close(self, error: ErrorReport | None = None) -> None:
        """Write what waits and note the end. May be called twice; a lost lease passes in silence."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._flusher.join()
        try:
            self.flush()
            with self._write() as transaction:
                mine = attempts.c.run == self.run, attempts.c.number == self._number
                report = asdict(error) if error else None
                transaction.execute(update(attempts).where(*mine).values(ended_at=_now(), error=report))
        except Fenced:
            return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close(ErrorReport.of(error) if isinstance(error, HeadraceError) else None)
        except TransientError:
            if error is None:  # else that one tells more
                raise

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        with self._database.write() as transaction:
            hold(transaction, self._lease)
            yield transaction

    def _begin(self) -> None:
        with self._database.write() as transaction:
            self._epoch = hold(transaction, self._lease)  # an earlier attempt may have raised it
            run = lock_run(transaction, self.run, self._lease)
            if run.status != RunStatus.RUNNING:
                raise ConflictError(
                    "store.run_state",
                    f"run {self.run} is {run.status}, not running",
                    remedy="Look at the run again: somebody else has moved it on.",
                )
            self._number: int = run.attempt
            row = {"run": self.run, "number": self._number, "epoch": self._epoch, "started_at": _now()}
            transaction.execute(self._database.put(attempts), row | {"ended_at": None, "error": None})
            for earlier in transaction.execute(select(run_streams).where(run_streams.c.run == self.run)):
                if earlier.committed is not None:
                    seen = Counts(written=earlier.committed, bytes=earlier.committed_bytes)
                    self._committed[earlier.stream] = seen

    def _flush_often(self) -> None:
        while not self._closed.wait(FLUSH_SECONDS):
            try:
                self.flush()
            except Fenced:
                return
            except TransientError:
                continue

    def _raise_lost(self) -> None:
        if self._lost is not None:
            raise self._lost

    def _save_position(self, transaction: Connection, slice_key: str, position: Position) -> None:
        row = {
            "pipeline": self._lease.pipeline,
            "slice": slice_key,
            "position": position,
            "epoch": self._epoch,
        }
        transaction.execute(self._database.put(checkpoints), row | _stamps())

    def _save_token(self, transaction: Connection, slice_key: str, stream: str, token: Token) -> None:
        row = {
            "pipeline": self._lease.pipeline,
            "slice": slice_key,
            "stream": stream,
            "epoch": token.epoch,
            "sequence": token.sequence,
            "position": token.position,
        }
        put = self._database.put(checkpoint_tokens, rising="sequence")
        if not transaction.execute(put, row | _stamps()).rowcount:
            raise ConflictError(
                "store.sequence_regressed",
                f"{stream}: publish {token.sequence} is older than the one remembered for slice {slice_key}",
                remedy="Start the pipeline again, so that it reads from the target where it stands.",
            )

    def _save_committed(
        self, transaction: Connection, known: Mapping[str, Counts], new: Iterable[str]
    ) -> None:
        latest = [self._latest.get(stream) or StreamProgress(stream=stream) for stream in sorted(new)]
        rows = [self._progress_row(progress, known) for progress in latest]
        transaction.execute(self._database.put(run_streams), rows)
        total = sum(known.values(), Counts())
        sums = {"committed": total.written, "committed_bytes": total.bytes, "updated_at": _now()}
        transaction.execute(update(runs).where(runs.c.id == self.run).values(sums))

    def _progress_row(self, progress: StreamProgress, committed: Mapping[str, Counts]) -> dict[str, Any]:
        seen = committed.get(progress.stream)
        return {
            "run": self.run,
            "stream": progress.stream,
            "status": progress.status.value,
            "counts": progress.counts.to_json(),
            "committed": seen.written if seen else None,
            "committed_bytes": seen.bytes if seen else None,
            "expected": progress.expected,
            "error": asdict(progress.error) if progress.error else None,
            "updated_at": _now(),
        }

    def _reject_row(self, reject: Reject) -> dict[str, Any]:
        data = reject.to_json()
        where = json.dumps(data["where"], sort_keys=True, default=str)
        return {
            "pipeline": self._lease.pipeline,
            "run": self.run,
            "stream": reject.stream,
            "where_hash": hashlib.sha256(where.encode()).hexdigest(),
            "code": reject.code,
            "reason": one_line(reject.reason),
            "where": json.loads(where),
            "row": json.loads(json.dumps(data["row"], default=str)),
            "created_at": _now(),
        }


def _now() -> datetime:
    return datetime.now(UTC)


def _stamps() -> dict[str, datetime]:
    return dict.fromkeys(("created_at", "updated_at"), _now())
