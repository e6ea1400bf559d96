"""What Prometheus reads: what this process knows of itself, and what the store knows of runs."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from headrace import __version__
from headrace.model.run import RunStatus
from headrace.store import Store
from headrace.store.measures import StreamMeasure

CONTENT_TYPE = CONTENT_TYPE_LATEST
PIPELINES = 1000
"""How many pipelines have series of their own: those that were made first."""
STREAMS = 5000
"""How many streams have."""

_OVERLAP = timedelta(seconds=60)  # rows are stamped before they can be read
_KINDS = ("read", "written", "rejected", "bytes")


class Metrics(Collector):
    """Counters count from the start of this process: runs that it saw, by whichever worker."""

    def __init__(self, store: Store, running: Callable[[], int]):
        self._store, self._running = store, running
        self._lock = threading.Lock()
        self._started = self._since = datetime.now(UTC)
        self._seen: dict[tuple[str, str], tuple[int, ...]] = {}
        self._totals: dict[tuple[str, str], list[int]] = {}
        self._attempts: dict[str, int] = {}
        self._retries: dict[str, int] = defaultdict(int)
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def text(self) -> bytes:
        """All of them, in Prometheus' own format. Raises TransientError while the store is away."""
        with self._lock:
            return generate_latest(self._registry)

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        info = GaugeMetricFamily("headrace_build_info", "The version that runs.", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        yield GaugeMetricFamily(
            "headrace_worker_runs", "Runs that this process works on.", value=self._running()
        )
        waiting = self._store.measures.unfinished()
        yield GaugeMetricFamily(
            "headrace_queue_depth", "Runs that wait for a worker.", value=waiting[RunStatus.QUEUED]
        )
        yield from self._of_pipelines()
        self._count()
        yield from self._counters()

    def _of_pipelines(self) -> Iterator[Metric]:
        state = GaugeMetricFamily(
            "headrace_run_state", "1 for the state of the newest run.", labels=["pipeline", "state"]
        )
        good = GaugeMetricFamily(
            "headrace_last_success_timestamp_seconds", "When a run last succeeded.", labels=["pipeline"]
        )
        age = GaugeMetricFamily(
            "headrace_checkpoint_age_seconds", "Time since the last checkpoint.", labels=["pipeline"]
        )
        dead = GaugeMetricFamily("headrace_dlq_records", "Dead letters.", labels=["pipeline"])
        now = datetime.now(UTC)
        for found in self._store.measures.pipelines(PIPELINES):
            id = found.pipeline
            if found.status:
                for status in RunStatus:
                    state.add_metric([id, status.value], int(status is found.status))
            if found.succeeded_at:
                good.add_metric([id], found.succeeded_at.timestamp())
            if found.checkpoint_at:
                age.add_metric([id], max(0.0, (now - found.checkpoint_at).total_seconds()))
            dead.add_metric([id], found.rejects)
        yield from (state, good, age, dead)

    def _count(self) -> None:
        """Add what happened since the last look."""
        since, self._since = self._since, datetime.now(UTC)
        for found in self._store.measures.streams(since - _OVERLAP):
            key = found.run, found.stream
            counts = found.counts
            now = (counts.read, found.committed, counts.rejected, counts.bytes)
            before = self._seen.get(key)
            if before is None:
                before = (0, 0, 0, 0) if found.queued_at >= self._started else now
            self._seen[key] = now
            self._add(found, [max(0, new - old) for new, old in zip(now, before, strict=True)])

    def _add(self, found: StreamMeasure, more: list[int]) -> None:
        series = found.pipeline, found.stream
        if series in self._totals or len(self._totals) < STREAMS:
            known = self._totals.setdefault(series, [0] * len(_KINDS))
            self._totals[series] = [a + b for a, b in zip(known, more, strict=True)]
            first = 1 if found.queued_at >= self._started else found.attempt
            self._retries[found.pipeline] += max(0, found.attempt - self._attempts.get(found.run, first))
        self._attempts[found.run] = found.attempt

    def _counters(self) -> Iterator[Metric]:
        names = (
            ("headrace_records_read", "Rows read from sources."),
            ("headrace_records_written", "Rows that readers of targets see."),
            ("headrace_records_rejected", "Rows that went to the dead letters."),
            ("headrace_bytes_read", "Arrow bytes read from sources."),
        )
        for at, (name, help) in enumerate(names):
            metric = CounterMetricFamily(name, help, labels=["pipeline", "stream"])
            for (pipeline, stream), counts in self._totals.items():
                metric.add_metric([pipeline, stream], counts[at])
            yield metric
        retries = CounterMetricFamily(
            "headrace_run_retries", "Attempts after the first of their run.", labels=["pipeline"]
        )
        for pipeline, count in self._retries.items():
            retries.add_metric([pipeline], count)
        yield retries
