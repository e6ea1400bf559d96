"""One execution of a pipeline: its states, its counts, its log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from headrace.errors import HeadraceError


class RunStatus(StrEnum):
    """queued → running → succeeded | failed | cancelled; running → queued (retry, lease ran out)."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self in (RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.CANCELLED)


TRANSITIONS: Mapping[RunStatus, frozenset[RunStatus]] = {
    RunStatus.QUEUED: frozenset({RunStatus.RUNNING, RunStatus.CANCELLED}),
    RunStatus.RUNNING: frozenset(
        {RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.QUEUED}
    ),
    RunStatus.SUCCEEDED: frozenset(),
    RunStatus.FAILED: frozenset(),
    RunStatus.CANCELLED: frozenset(),
}


class Trigger(StrEnum):
    """Who asked for a run."""

    MANUAL = "manual"
    SCHEDULE = "schedule"


class StreamStatus(StrEnum):
    """Where one stream of a run is."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    PAUSED = "paused"  # its schema changed and the policy asks for a person
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self not in (StreamStatus.PENDING, StreamStatus.RUNNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Rows of one stream in one run: read = written + rejected + skipped, or the run has failed.

    `skipped` is by rule name; `bytes` are Arrow bytes read.
    """

    read: int = 0
    written: int = 0
    rejected: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)
    bytes: int = 0

    @property
    def balanced(self) -> bool:
        return self.read == self.written + self.rejected + sum(self.skipped.values())

    def __add__(self, other: Counts) -> Counts:
        rules = {*self.skipped, *other.skipped}
        return Counts(
            read=self.read + other.read,
            written=self.written + other.written,
            rejected=self.rejected + other.rejected,
            skipped={r: self.skipped.get(r, 0) + other.skipped.get(r, 0) for r in sorted(rules)},
            bytes=self.bytes + other.bytes,
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "read": self.read,
            "written": self.written,
            "rejected": self.rejected,
            "skipped": dict(self.skipped),
            "bytes": self.bytes,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Counts:
        return cls(**data)


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorReport:
    """An error as it is stored and shown: never a stack trace, never a secret.

    `exit_code` is that of the error's class: what was done about it, and how a command line ends.
    """

    code: str
    message: str
    field: str | None = None
    remedy: str | None = None
    exit_code: int = 1

    @classmethod
    def of(cls, error: HeadraceError) -> ErrorReport:
        return cls(**error.as_dict(), exit_code=error.exit_code)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamProgress:
    """One stream of a run, as people see it. `expected` is the source's own estimate of rows.

    `counts` are of rows on their way; `committed` and `committed_bytes` of those that readers see.
    """

    stream: str
    status: StreamStatus = StreamStatus.PENDING
    counts: Counts = field(default_factory=Counts)
    committed: int | None = None
    committed_bytes: int | None = None
    expected: int | None = None
    error: ErrorReport | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """`attempt` counts from 1; times are UTC.

    `committed` and `committed_bytes` (of Arrow data) are what is readable in the target by now, over all
    streams; None before the first commit. `cancelling` says that it was asked to end. `pipeline_name` and
    `team` are today's, or the last ones of a pipeline that is gone.
    """

    id: str
    pipeline: str
    pipeline_name: str = ""
    team: str | None = None
    status: RunStatus
    trigger: Trigger = Trigger.MANUAL
    attempt: int = 1
    queued_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    cancelling: bool = False
    committed: int | None = None
    committed_bytes: int | None = None
    error: ErrorReport | None = None
    streams: tuple[StreamProgress, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFilter:
    """Which runs; what is None or empty asks for nothing. The times are of when runs were asked for."""

    pipeline: str | None = None
    statuses: tuple[RunStatus, ...] = ()
    after: datetime | None = None
    before: datetime | None = None


class RunOrder(StrEnum):
    """What runs can be sorted by; where a value is missing it comes last, whatever the direction."""

    ID = "id"
    PIPELINE = "pipeline"
    PIPELINE_NAME = "pipeline_name"
    STATUS = "status"
    COMMITTED = "committed"
    COMMITTED_BYTES = "committed_bytes"
    QUEUED = "queued"
    ENDED = "ended"
    DURATION = "duration"  # from when it was asked for to its end


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How the finished runs of a pipeline went: `status` of the last one that nobody cancelled."""

    status: RunStatus | None = None
    succeeded_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """One line of a run's log; `at` is UTC and `line` counts from 1 within the run."""

    run: str
    line: int
    at: datetime
    level: str
    message: str
    stream: str | None = None
