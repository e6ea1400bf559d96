"""Counts of a run, gathered from its threads and shown at a bearable rate."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from headrace.engine.plan import PlannedStream
from headrace.engine.state import State
from headrace.errors import HeadraceError
from headrace.model.run import Counts, ErrorReport, StreamProgress, StreamStatus

_INTERVAL = 0.5  # seconds between two reports of one stream


@dataclass(slots=True)
class Tally:
    """Counts in the making, of one slice."""

    read: int = 0
    written: int = 0
    rejected: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    bytes: int = 0

    def skip(self, rules: Mapping[str, int]) -> None:
        for rule, rows in rules.items():
            self.skipped[rule] = self.skipped.get(rule, 0) + rows

    def counts(self) -> Counts:
        return Counts(
            read=self.read,
            written=self.written,
            rejected=self.rejected,
            skipped=dict(self.skipped),
            bytes=self.bytes,
        )


class Board:
    """Where every stream of a run is. Called from any thread."""

    def __init__(self, state: State):
        self._state = state
        self._lock = threading.Lock()
        self._streams: dict[str, StreamProgress] = {}
        self._live: dict[str, dict[str, Counts]] = {}
        self._shown: dict[str, float] = {}

    def add(self, streams: Iterable[PlannedStream]) -> None:
        for stream in streams:
            self._put(StreamProgress(stream=stream.id, expected=stream.read.stream.rows))

    def live(self, stream: str, slice_key: str, counts: Counts) -> None:
        """A slice's counts so far; they count for nothing until `settle`."""
        with self._lock:
            self._live.setdefault(stream, {})[slice_key] = counts
            now = time.monotonic()
            if now - self._shown.get(stream, 0.0) < _INTERVAL:
                return
            self._shown[stream] = now
            shown = self._with_live(stream)
        self._state.progress(shown)

    def settle(self, stream: str, slice_key: str, counts: Counts) -> None:
        """A slice's counts are final and are added to the stream's."""
        with self._lock:
            self._live.get(stream, {}).pop(slice_key, None)
            progress = self._streams[stream]
            self._streams[stream] = replace(progress, counts=progress.counts + counts)
            shown = self._with_live(stream)
        self._state.progress(shown)

    def set(self, stream: str, status: StreamStatus, error: HeadraceError | None = None) -> None:
        with self._lock:
            progress = self._streams.get(stream) or StreamProgress(stream=stream)
            if status.ended:
                self._live.pop(stream, None)
        self._put(replace(progress, status=status, error=ErrorReport.of(error) if error else None))

    def status(self, stream: str) -> StreamStatus:
        with self._lock:
            return self._streams[stream].status

    def counts(self, stream: str) -> Counts:
        with self._lock:
            return self._streams[stream].counts

    def results(self) -> tuple[StreamProgress, ...]:
        with self._lock:
            return tuple(self._streams.values())

    def _with_live(self, stream: str) -> StreamProgress:
        progress = self._streams[stream]
        return replace(progress, counts=sum(self._live.get(stream, {}).values(), progress.counts))

    def _put(self, progress: StreamProgress) -> None:
        with self._lock:
            self._streams[progress.stream] = progress
        self._state.progress(progress)
