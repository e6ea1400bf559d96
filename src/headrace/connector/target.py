"""What a target must do: stage rows anywhere, publish them with their token in one place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Generic

import pyarrow as pa

from headrace.connector.config import ConfigT
from headrace.errors import Fenced
from headrace.model.event import Batch, Reject
from headrace.model.pipeline import WriteMode
from headrace.model.run import Counts
from headrace.model.stream import Position, Slice, Stream


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """Who published what: becomes visible together with the rows, and is the truth about where we are.

    `epoch` grows with every takeover of the pipeline, `sequence` with every publish of the stream.
    """

    pipeline: str
    epoch: int
    sequence: int
    position: Position

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def supersedes(self, last: Token | None) -> bool:
        """True if this token may follow `last` in a table; False if it is that very publish again.

        Raises Fenced when a newer epoch has published, or this sequence is taken by another epoch.
        Every target calls this inside the atomic unit of its publish.
        """
        if last is None or (self.epoch >= last.epoch and self.sequence > last.sequence):
            return True
        if (self.epoch, self.sequence) == (last.epoch, last.sequence):
            return False
        raise Fenced(
            "target.fenced",
            f"pipeline {self.pipeline} was published by epoch {last.epoch} (sequence {last.sequence}); "
            f"this worker holds epoch {self.epoch} (sequence {self.sequence})",
            remedy="Nothing to do: the newer worker carries on. If there is none, start the pipeline again.",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """Rows that are durable but not visible, described by plain JSON: never the data itself.

    `rows` counts the events taken (a delete is one); `truncates` says that they follow a Truncate;
    `detail` is the target's own and holds no secret.
    """

    rows: int
    bytes: int = 0
    truncates: bool = False
    detail: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Staged:
        return cls(**data)


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedSlice:
    """A slice of a load that was read to its end and staged.

    `fingerprint` tells by which plan (columns, transforms, mode, table): only rows staged by the same
    plan may be published by a later attempt. `epoch` is that of the lease under which it was saved.
    """

    slice: Slice
    staged: Staged
    counts: Counts
    fingerprint: str = ""
    epoch: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A slice's checkpoint as we saved it.

    `tokens` holds, by stream id, the epoch and sequence of the stream's last publish, and where the
    stream stood when it was last read in this slice; a sequence of 0 says that it had no publish yet.
    """

    position: Position
    tokens: Mapping[str, Token]


class Writer(ABC):
    """Takes the rows of one stream from one slice until `stage`. One thread; `close` always follows."""

    @abstractmethod
    def write(self, batch: Batch) -> Sequence[Reject]:
        """Take a batch; may buffer. Gives back the rows that the target cannot hold, each with a reason.

        The batch has the columns of the stream given to `Target.open`.
        """

    @abstractmethod
    def change_schema(self, stream: Stream) -> None:
        """The batches that follow have this schema; the table has been prepared for it."""

    @abstractmethod
    def truncate(self) -> None:
        """Drop what was taken so far; what is staged later replaces the table's rows when published."""

    @abstractmethod
    def stage(self) -> Staged:
        """Make everything taken durable, still invisible. Called at most once; may be called with no rows."""

    @abstractmethod
    def close(self) -> None:
        """Let go of everything that was not staged. May be called twice."""


class Target(ABC, Generic[ConfigT]):
    """One connection to a system that is written.

    Order of calls, by stream: `describe` and `prepare`, then `open` … `stage` (from several threads,
    and from other processes that hold a target of their own), then `publish`, in one place. The
    `stream` given is named and shaped as it shall stand in the target.
    """

    def __init__(self, config: ConfigT):
        self.config = config

    @abstractmethod
    def check(self) -> None:
        """Return when a run could start; else raise an error that names the field and the remedy."""

    @abstractmethod
    def image(self, stream: Stream) -> pa.Schema:
        """The stream's schema as this target stores it and reads it back. Pure.

        Raises ConfigError for a type or name that it cannot hold without loss.
        """

    @abstractmethod
    def describe(self, stream: Stream) -> pa.Schema | None:
        """The schema of the table that stands there now, in the types of `image`; None if there is none."""

    @abstractmethod
    def prepare(self, stream: Stream, mode: WriteMode) -> None:
        """Make the table exist and able to hold `image(stream)`: create it, add columns, widen types.

        Never drops a column. Raises ConfigError when the table cannot be brought there.
        """

    @abstractmethod
    def open(self, stream: Stream, mode: WriteMode, slice: Slice) -> Writer:
        """A writer for one slice's rows. For UPSERT the key is `stream.primary_key`."""

    @abstractmethod
    def publish(self, stream: Stream, mode: WriteMode, staged: Sequence[Staged], token: Token) -> None:
        """Make all of `staged` and the token visible in one atomic step.

        Three outcomes: it returns (done; also when this very token is there already); it raises
        OutcomeUnknown (deletes nothing; the caller looks at `committed`); it raises anything else
        (nothing happened, `staged` is still good, unless it is StageLost). Raises Fenced by
        `Token.supersedes`.
        """

    @abstractmethod
    def committed(self, stream: Stream, pipeline: str) -> Token | None:
        """The token of this pipeline's last publish into the stream's table, read from the target itself."""

    def discard(self, stream: Stream, staged: Sequence[Staged]) -> None:
        """Remove what was staged and will never be published. Never called after OutcomeUnknown."""

    def close(self) -> None:
        """Let go of connections. May be called twice, and after any error."""
