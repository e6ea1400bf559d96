"""What travels from a source to a target: order carries the meaning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import pyarrow as pa

from headrace.model.stream import Position, Stream


class Change(IntEnum):
    """What happened to a row; the values of `Batch.changes`."""

    INSERT = 0
    UPDATE = 1
    DELETE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """A row that cannot go on, with the reason and where in the source it was.

    `where` identifies the row for good (file and line, partition and offset, key values): reading it
    again yields the same reject, which is then stored once. `row` is what could be read of it, as JSON.
    """

    stream: str
    code: str
    reason: str
    where: Mapping[str, Any]
    row: Mapping[str, Any] | str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "stream": self.stream,
            "code": self.code,
            "reason": self.reason,
            "where": dict(self.where),
            "row": self.row if isinstance(self.row, str | None) else dict(self.row),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Reject:
        return cls(**data)


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one stream, in the order in which they happened.

    `changes` is an int8 array of `Change`, a value a row; None means that all are inserts. A delete
    carries its key columns; the other columns may be null.

    `unchanged` maps a column to a boolean array, a value a row: true where the source did not send
    the cell because the update left it alone. The cell itself is null then and means nothing. Only a
    target that can keep the old value takes such a batch (`Capability.UNCHANGED`).

    `rejects` and `skipped` account for rows that were read but are not in `rows`: those that cannot
    go on, and those left out by a named rule.
    """

    stream: str
    rows: pa.RecordBatch
    changes: pa.Array | None = None
    unchanged: Mapping[str, pa.Array] | None = None
    rejects: tuple[Reject, ...] = ()
    skipped: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, stream: Stream, rows: Iterable[Mapping[str, Any]]) -> Batch:
        """A batch of inserts from dicts, cast to the stream's schema."""
        return cls(stream.id, pa.RecordBatch.from_pylist(list(rows), schema=stream.schema))

    @property
    def read(self) -> int:
        """How many source rows this batch accounts for."""
        return int(self.rows.num_rows) + len(self.rejects) + sum(self.skipped.values())


@dataclass(frozen=True, slots=True)
class SchemaChange:
    """From here on the rows of the stream have this schema."""

    stream: str
    schema: pa.Schema


@dataclass(frozen=True, slots=True)
class Truncate:
    """The stream lost all its rows here; what follows comes into an empty table."""

    stream: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Covers everything yielded before it in its slice."""

    position: Position


@dataclass(frozen=True, slots=True)
class Remark:
    """A line for the run's log: level is debug, info, warning or error. It covers and changes nothing."""

    level: str
    text: str


Event = Batch | SchemaChange | Truncate | Checkpoint | Remark
