"""Take the events of one slice to the target's stage, in this process or in another one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from headrace.connector import (
    Batch,
    Checkpoint,
    Event,
    Reject,
    Remark,
    SchemaChange,
    Slice,
    Source,
    Staged,
    Target,
    Truncate,
    WriteMode,
    Writer,
)
from headrace.engine.failpoint import hit
from headrace.engine.plan import PlannedStream
from headrace.engine.progress import Tally
from headrace.engine.read import Pulled, overlap, pulled
from headrace.engine.state import StagedSlice
from headrace.engine.stop import Stop
from headrace.engine.transform import conform, name_changes, transform
from headrace.errors import DataError, HeadraceError
from headrace.model.pipeline import Tuning
from headrace.model.run import Counts

TRUNCATED = "truncated"
"""Skip rule: rows that a Truncate made void before they were published."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedResult:
    """A slice that was read to its end, and the rows of it that were rejected."""

    done: StagedSlice
    rejects: tuple[Reject, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "slice": self.done.slice.to_json(),
            "staged": self.done.staged.to_json(),
            "counts": self.done.counts.to_json(),
            "fingerprint": self.done.fingerprint,
            "rejects": [reject.to_json() for reject in self.rejects],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> StagedResult:
        done = StagedSlice(
            slice=Slice.from_json(data["slice"]),
            staged=Staged.from_json(data["staged"]),
            counts=Counts.from_json(data["counts"]),
            fingerprint=data["fingerprint"],
        )
        return cls(done=done, rejects=tuple(Reject.from_json(r) for r in data["rejects"]))


@contextmanager
def flow(
    events: Iterable[Event], streams: Mapping[str, PlannedStream], tuning: Tuning, stop: Stop
) -> Iterator[Iterator[Pulled]]:
    """The events as they shall be written. Reading, transforming and the caller's writing overlap."""
    chains = {id: stream.transforms for id, stream in streams.items() if stream.transforms}
    limits = (tuning.queue_bytes, stop, tuning.stall_after)
    with overlap(pulled(events, tuning.batch_rows), *limits) as raw:
        if not chains:
            yield raw
            return
        shaped = (Pulled(transform(p.event, chains), p.rows, p.bytes) for p in raw)
        with overlap(shaped, *limits) as ready:
            yield ready


@dataclass(slots=True, kw_only=True)
class Intake:
    """Writes batches of one stream to one writer, and accounts for every row."""

    stream: PlannedStream
    writer: Writer
    keeps_unchanged: bool
    tally: Tally = field(default_factory=Tally)
    rejects: list[Reject] = field(default_factory=list)

    def write(self, batch: Batch, rows: int, bytes: int) -> None:
        """Take a batch that was made of `rows` source rows and `bytes` bytes."""
        self.tally.read += rows
        self.tally.bytes += bytes
        self.tally.skip(batch.skipped)
        self._reject(batch.rejects)
        if batch.unchanged and not self.keeps_unchanged:
            raise DataError(
                "engine.unchanged_refused",
                f"{self.stream.id}: an update lacks the cells it left alone, and the target can't keep them",
                remedy="Let the source send whole rows (PostgreSQL: REPLICA IDENTITY FULL).",
            )
        if self.stream.names_changes:
            batch = name_changes(batch)
        if batch.rows.num_rows:
            refused = self.writer.write(conform(batch, self.stream.landed.schema))
            self._reject(refused)
            self.tally.written += batch.rows.num_rows - len(refused)

    def truncate(self) -> None:
        """Rows before this are void. In append mode nothing is: what was appended stays."""
        if self.stream.write is WriteMode.APPEND:
            return
        self.writer.truncate()
        self.tally.skip({TRUNCATED: self.tally.written})
        self.tally.written = 0

    def stage(self) -> Staged:
        """Stage what was taken. Raises if the rows don't add up: then nothing may be published."""
        staged = self.writer.stage()
        self.tally.written = staged.rows
        counts = self.tally.counts()
        if not counts.balanced:
            raise HeadraceError(
                "engine.unbalanced",
                f"{self.stream.id}: {counts.read} rows read, but {counts.written} written, "
                f"{counts.rejected} rejected and {sum(counts.skipped.values())} skipped",
                remedy="This is a bug in a connector or transform: nothing was published; please report it.",
            )
        hit("after_stage")
        return staged

    def _reject(self, rejects: Iterable[Reject]) -> None:
        for reject in rejects:
            self.rejects.append(reject)
            self.tally.rejected += 1


class TooManyRejects(DataError):
    """A stream has more rejected rows than its pipeline allows; `rejects` are those not stored yet."""

    rejects: tuple[Reject, ...] = ()


def check_limit(stream: str, rejected: int, limit: int | None, rejects: Sequence[Reject] = ()) -> None:
    """Raise TooManyRejects with the `rejects` in hand, so that people can look at them."""
    if limit is not None and rejected > limit:
        error = TooManyRejects(
            "engine.too_many_rejects",
            f"{stream}: {rejected} rows were rejected, more than the limit of {limit}",
            field="reject_limit",
            remedy="Look at them with `headrace rejects`; mend the rows or raise reject_limit.",
        )
        error.rejects = tuple(rejects[: limit + 1])
        raise error


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One slice of a load, ready to be staged anywhere."""

    slice: Slice
    stream: PlannedStream
    tuning: Tuning
    keeps_unchanged: bool


def stage_piece(
    piece: Piece,
    source: Source[Any],
    target: Target[Any],
    stop: Stop,
    watch: Callable[[Counts], None],
) -> StagedResult:
    """Read a slice of a load to its end and stage its rows.

    `watch` is called with the counts so far. Raises the source's and the target's errors; rows that
    were taken until then are let go of.
    """
    stream, slice, limit = piece.stream, piece.slice, piece.tuning.reject_limit
    writer = target.open(stream.landed, stream.write, slice)
    intake = Intake(stream=stream, writer=writer, keeps_unchanged=piece.keeps_unchanged)
    try:
        with flow(source.read(slice, {}), {stream.id: stream}, piece.tuning, stop) as events:
            for item in events:
                match item.event:
                    case Batch() as batch:
                        intake.write(batch, item.rows, item.bytes)
                        check_limit(stream.id, intake.tally.rejected, limit, intake.rejects)
                        watch(intake.tally.counts())
                    case SchemaChange():
                        raise DataError(
                            "engine.schema_in_load",
                            f"{stream.id} changed its schema in the middle of a load",
                            remedy="Run again: the load is planned anew with the new schema.",
                        )
                    case Truncate():
                        intake.truncate()
                    case Checkpoint() | Remark():
                        pass  # a load publishes once, when all of its slices are staged
        staged = intake.stage()
    finally:
        writer.close()
    done = StagedSlice(
        slice=slice, staged=staged, counts=intake.tally.counts(), fingerprint=stream.fingerprint
    )
    return StagedResult(done=done, rejects=tuple(intake.rejects))
