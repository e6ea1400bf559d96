"""What the user wants: a source, a target, chosen streams and how to write them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from headrace.model.stream import ReadMode


class WriteMode(StrEnum):
    """What a write does to the rows that are in the table already."""

    APPEND = "append"  # nothing
    UPSERT = "upsert"  # rows with the same key give way; deletes are applied
    REPLACE = "replace"  # all of them give way, in one swap


class SchemaPolicy(StrEnum):
    """What to do when a stream no longer looks like its table."""

    EVOLVE = "evolve"  # add columns, widen types; a column that went away stays and is null
    IGNORE = "ignore"  # keep the table as it is; new columns are not written
    PAUSE = "pause"  # stop this stream, until a person has looked
    FAIL = "fail"  # fail this stream's run


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamChoice:
    """One stream in a pipeline. `stream` is a stream id or a pattern (`public.*`).

    None means "what fits": `write` follows from `read` and the key, `key` is the source's primary key,
    `columns` are all, `target` is the stream's own name. `or_full` is for an incremental read without a
    `cursor`: it goes by the stream's default one, and where there is none the stream is read in full.
    """

    stream: str
    read: ReadMode = ReadMode.FULL
    write: WriteMode | None = None
    key: tuple[str, ...] = ()
    cursor: str | None = None
    look_back: timedelta | None = None
    or_full: bool = False
    columns: tuple[str, ...] = ()
    filter: str | None = None
    target: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformStep:
    """A transform by name with its settings, applied to the streams that match `streams`."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    streams: tuple[str, ...] = ("*",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """The knobs of a pipeline.

    `batch_rows` and `batch_bytes` bound one batch, `queue_bytes` what waits between two steps of one
    slice; `commit_interval` is the longest time that rows wait for their publish. More than
    `reject_limit` rejected rows stop a stream; None never does. `stall_after` is how long a source may
    be silent before the run is taken for hung. `processes` stages the slices of loads in processes
    rather than in threads.
    """

    parallelism: int = 2
    batch_rows: int = 65_536
    queue_bytes: int = 64 << 20
    commit_interval: timedelta = timedelta(seconds=30)
    commit_rows: int = 1_000_000
    max_retries: int = 3
    retry_backoff: timedelta = timedelta(seconds=1)
    reject_limit: int | None = 100
    stall_after: timedelta = timedelta(minutes=5)
    processes: bool = False


class Compact(StrEnum):
    """Whose files are compacted without being asked."""

    UPSERTS = "upserts"  # those of tables that upserts leave deletes in
    ALWAYS = "always"  # those of every table that the pipeline writes
    NEVER = "never"


@dataclass(frozen=True, slots=True, kw_only=True)
class Upkeep:
    """What a pipeline does for the tables that it writes, where the target knows how.

    A table is compacted once it has `delete_files`, or `small_files` more files than its size calls for.
    With None for `expire_days` or `orphan_days` no snapshot expires and no orphan is removed. A table is
    not looked at again before `every` has passed.
    """

    compact: Compact = Compact.UPSERTS
    delete_files: int = 50
    small_files: int = 50
    expire_days: float | None = None
    keep_snapshots: int = 10
    orphan_days: float | None = None
    every: timedelta = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """`source` and `target` are ids of connections. `version` guards every change (compare and set).

    `schedule` is a cron expression of five fields, in UTC; None means that people start it. `team` owns
    it; None leaves it to all members of the workspace. The store fills in when it was made and changed.
    """

    id: str
    name: str
    source: str
    target: str
    streams: tuple[StreamChoice, ...]
    transforms: tuple[TransformStep, ...] = ()
    schema_policy: SchemaPolicy = SchemaPolicy.EVOLVE
    tuning: Tuning = field(default_factory=Tuning)
    maintenance: Upkeep = field(default_factory=Upkeep)
    schedule: str | None = None
    paused: bool = False
    team: str | None = None
    version: int = 0
    extras: Mapping[str, Any] = field(default_factory=dict)
    created_at: datetime | None = field(default=None, compare=False)
    updated_at: datetime | None = field(default=None, compare=False)
