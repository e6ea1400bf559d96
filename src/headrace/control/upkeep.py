"""Maintenance by policy: what a run has published into is looked after, beside the run and after it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self

from headrace.connector import Maintainable, Maintained, Maintenance, Target, Wear
from headrace.engine.failpoint import BESIDE, hit
from headrace.engine.plan import Job, PlannedStream
from headrace.engine.retry import report
from headrace.engine.stop import Stop
from headrace.errors import Fenced, HeadraceError
from headrace.model.pipeline import Compact, Upkeep, WriteMode
from headrace.store import Lease, Store

bugs = logging.getLogger("headrace.bugs")

DAILY = 24
"""Snapshots and orphans are looked at so much less often than files to compact: that takes longer."""
ORPHAN_DAYS = 3.0

Log = Callable[[str, str, str | None], None]
"""Level, message and stream of one line for the run's log."""


class Caretaker:
    """Looks after the tables of one run, under the run's lease, in a thread and a target of its own.

    The engine tells by `published` what there is to look after. A run that lasts longer than the
    policy's `every` is not waited for; `finish`, once its outcome is remembered, does the rest. What
    goes wrong is a warning in the run's log and nothing else.
    """

    def __init__(self, store: Store, job: Job, lease: Lease, stop: Stop, log: Log):
        self._store, self._job, self._lease, self._stop, self._log = store, job, lease, stop, log
        self._lock = threading.Lock()
        self._streams: dict[str, PlannedStream] = {}
        self._looked = time.monotonic()
        self._thread = ThreadPoolExecutor(1, "headrace-upkeep")
        self._work: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()

    def published(self, stream: PlannedStream) -> None:
        """The stream's table has grown by a commit."""
        with self._lock:
            self._streams[stream.id] = stream
            waited = time.monotonic() - self._looked
            busy = self._work is not None and not self._work.done()
            if busy or waited < self._policy.every.total_seconds():
                return
            self._begin()

    def finish(self) -> None:
        """Look after what was published into since the last look; not if the run was told to end."""
        with self._lock:
            if self._streams and not self._stop.draining:
                self._begin()
            work = self._work
        if work:
            work.result()

    @property
    def _policy(self) -> Upkeep:
        return self._job.pipeline.maintenance

    def _begin(self) -> None:
        streams, self._streams = self._streams, {}
        self._looked = time.monotonic()
        self._work = self._thread.submit(self._look, streams)

    def _look(self, streams: Mapping[str, PlannedStream]) -> None:
        try:
            with closing(self._job.target()) as target:
                for stream in streams.values():
                    if not self._stop.draining:
                        self._look_after(target, stream)
        except Fenced:
            return  # the pipeline's new owner will see to it
        except Exception as error:
            self._warn("maintenance", error, None)
        finally:
            self._looked = time.monotonic()

    def _look_after(self, target: Target[Any], stream: PlannedStream) -> None:
        if not isinstance(target, Maintainable):
            if self._policy != Upkeep():
                said = f"{self._job.target_spec.title}: the tables need none of the maintenance asked for"
                self._log("warning", said, stream.id)
            return
        try:
            due = {
                step for step, pause in self._wished(stream.write).items() if self._due(stream, step, pause)
            }
            worn = target.wear(stream.landed) if due else None
            if worn is not None:
                for done in self._steps(target, worn, due):
                    self._told(done, stream.id)
        except Fenced:
            raise
        except Exception as error:
            self._warn(f"maintenance of {stream.landed.id}", error, stream.id)

    def _wished(self, write: WriteMode) -> dict[str, timedelta]:
        """The steps that the policy wants of a table, and how long to leave it alone between two."""
        policy = self._policy
        compact = policy.compact is Compact.ALWAYS or (
            policy.compact is Compact.UPSERTS and write is WriteMode.UPSERT
        )
        return {
            **({"compact": policy.every} if compact else {}),
            **({"expire": DAILY * policy.every} if policy.expire_days is not None else {}),
            **({"orphans": DAILY * policy.every} if policy.orphan_days is not None else {}),
        }

    def _due(self, stream: PlannedStream, step: str, pause: timedelta) -> bool:
        """Has the pause passed? It begins anew before the step: one that kills us is not tried at once."""
        table = stream.landed.id
        last = self._store.looked_after(self._job.pipeline.id, table, step)
        if last is not None and datetime.now(UTC) - last < pause:
            return False
        self._store.look_after(table, step, self._lease)
        return True

    def _steps(self, target: Maintainable, worn: Wear, due: Collection[str]) -> Iterator[Maintained]:
        policy = self._policy
        full = worn.delete_files >= policy.delete_files or worn.small_files >= policy.small_files
        wanted = Maintenance(
            tables=(worn.table,),
            compact="compact" in due and full,
            expire="expire" in due,
            orphans="orphans" in due,
            expire_after=policy.expire_days or 0.0,
            keep_snapshots=policy.keep_snapshots,
            orphans_after=policy.orphan_days or ORPHAN_DAYS,
            stopping=lambda: self._stop.draining,
        )
        if wanted.compact or wanted.expire or wanted.orphans:
            hit(BESIDE)
            yield from target.maintain(wanted)

    def _told(self, done: Maintained, stream: str) -> None:
        what = f"{done.step} of {done.table}"
        if done.error:
            self._warn(what, done.error, stream)
        elif any(done.counts.values()):
            counts = ", ".join(f"{name} {count}" for name, count in done.counts.items())
            self._log("info", f"{what}: {counts}", stream)

    def _warn(self, what: str, error: Exception, stream: str | None) -> None:
        ours = report(error)
        if ours is not error:
            bugs.exception("%s ended by a bug", what, exc_info=error)
        said = f"{what} failed, and the run is none the worse: {ours.code}: {ours.message}"
        with suppress(HeadraceError):  # a store that is away has nobody to tell
            self._log("warning", f"{said}. {ours.remedy or ''}".rstrip(), stream)
