"""A worker: takes up the runs that wait, each in a process of its own, until it is told to stop."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from headrace.connector import egress
from headrace.control.child import AWAY, LEFT, PREFIX, Hello, environment
from headrace.control.lease import acquire, alive, machine
from headrace.engine.retry import delay
from headrace.errors import ConflictError, Fenced, HeadraceError, NotFoundError, TransientError
from headrace.model.run import ErrorReport, Run, RunStatus
from headrace.store import Lease, Store
from headrace.store.queue import Waiting

KILL_AFTER = 23.0
"""Seconds that a cancelled run has to end by itself; with what it takes to notice and to clean up, 30."""
LEAVE = 20.0
"""Seconds that runs have to end at a checkpoint when the worker stops; then they are interrupted."""

bugs = logging.getLogger("headrace.bugs")

_LOOK = 0.5  # seconds between two looks at what is to do
_START = timedelta(seconds=60)  # the first lease must last until the process has started
_LONG = 600.0  # seconds after which a process that dies is not taken for one that never works


class Log(Protocol):
    """Where a worker tells what it does: an event and what belongs to it."""

    def __call__(self, level: str, event: str, /, **about: object) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the processes find the store: its data folder, and the environment that they would have."""

    folder: Path
    environ: Mapping[str, str]


@dataclass(kw_only=True)
class Child:
    """A process at work on a run."""

    process: subprocess.Popen[str]
    run: str
    workspace: str
    lease: Lease
    began: float = field(default_factory=time.monotonic)
    cancelled: float | None = None

    def say(self, word: str) -> None:
        try:
            assert self.process.stdin is not None
            self.process.stdin.write(f"{word}\n")
            self.process.stdin.flush()
        except OSError:
            pass  # it is about to be reaped


class Worker:
    """`run` in a thread of its own, `drain` and `abort` from any other. `limit` is how many runs at a time;
    with 0 it only gives runs back to the queue that a worker who died left behind."""

    def __init__(self, store: Store, place: Place, limit: int, ttl: timedelta, log: Log):
        self._store, self._place, self._limit, self._ttl, self._log = store, place, limit, ttl, log
        self._children: dict[str, Child] = {}  # by pipeline
        self._deaths: dict[str, int] = {}  # by run
        self._not_before: dict[str, float] = {}
        self._told = threading.Event()
        self._draining = self._aborting = False
        self._looked = time.monotonic()
        self._away = False

    @property
    def running(self) -> int:
        return len(self._children)

    @property
    def heartbeat(self) -> float:
        """Seconds since it last looked at its runs."""
        return time.monotonic() - self._looked

    def drain(self) -> None:
        """Take nothing up any more, end at checkpoints, hand over what is left."""
        self._draining = True
        self._told.set()

    def abort(self) -> None:
        """The same, but without waiting for checkpoints."""
        self._draining = self._aborting = True
        self._told.set()

    def run(self) -> None:
        """Work until told to stop; no process of this worker is left then."""
        while not self._draining:
            self._look(self._take_up)
            self._told.wait(_LOOK)
        self._leave()

    def _look(self, then: Callable[[], None]) -> None:
        """See to the children, and do what follows, unless the store is away."""
        try:
            self._reap()
            self._cancel()
            then()
            self._looked = time.monotonic()
            if self._away:
                self._log("info", "the store is back")
            self._away = False
        except HeadraceError as error:
            if not self._away:
                self._log("warning", "the store is away", code=error.code, error=error.message)
            self._away = True
        except Exception:  # or nobody would see to the runs any more
            bugs.exception("a worker met a bug")

    def _take_up(self) -> None:
        for waiting in self._store.queue.waiting(machine()):
            if self._draining:
                return
            if waiting.pipeline in self._children:
                continue
            if waiting.holder is not None and alive(waiting.holder):
                continue
            if time.monotonic() < self._not_before.get(waiting.run, 0.0):
                continue
            full = len(self._children) >= self._limit
            if full and waiting.status is RunStatus.QUEUED and not waiting.cancelling:
                continue
            try:
                self._take(waiting, full)
            except (ConflictError, NotFoundError):
                continue  # somebody else was first, or it is gone

    def _take(self, waiting: Waiting, full: bool) -> None:
        store = self._store.within(waiting.workspace)
        lease = acquire(store, waiting.pipeline, max(self._ttl, _START))
        started = False
        try:
            run = store.runs.get(waiting.run)
            if run.status.ended:
                return
            if run.status is RunStatus.RUNNING:
                self._log("warning", "a worker died: its run is taken over", run=run.id, epoch=lease.epoch)
            if run.cancelling:
                store.runs.finish(run.id, RunStatus.CANCELLED, lease=lease)
            elif full:
                store.runs.requeue(run.id, lease=lease)
            else:
                self._start(waiting, lease)
                started = True
        finally:
            if not started:
                store.leases.release(lease)

    def _start(self, waiting: Waiting, lease: Lease) -> None:
        hello = Hello(
            folder=str(self._place.folder),
            environ={k: v for k, v in self._place.environ.items() if k.startswith(PREFIX)},
            egress=egress.policy().to_json(),
            workspace=waiting.workspace,
            run=waiting.run,
            lease=lease,
            ttl=self._ttl.total_seconds(),
        )
        process = subprocess.Popen(
            [sys.executable, "-m", "headrace.control.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="backslashreplace",
            env=environment(self._place.environ),
            start_new_session=True,  # Ctrl-C is the worker's to hear
        )
        child = Child(process=process, run=waiting.run, workspace=waiting.workspace, lease=lease)
        self._children[waiting.pipeline] = child
        threading.Thread(target=self._listen, args=(child,), name="child", daemon=True).start()
        child.say(json.dumps(hello.to_json()))
        self._log("info", "a run starts", run=child.run, process=process.pid, epoch=lease.epoch)

    def _listen(self, child: Child) -> None:
        assert child.process.stderr is not None
        with child.process.stderr as lines:
            for line in lines:
                self._log("warning", "a run's process says", run=child.run, line=line.rstrip("\n"))

    def _reap(self) -> None:
        for pipeline, child in list(self._children.items()):
            if child.process.poll() is not None:
                self._settle(child)
                del self._children[pipeline]
                if child.process.stdin:
                    child.process.stdin.close()

    def _settle(self, child: Child) -> None:
        """What a process that has ended left undone. Raises TransientError while the store is away."""
        store, code = self._store.within(child.workspace), child.process.returncode
        try:
            run = store.runs.get(child.run)
            unfinished = not run.status.ended and store.leases.holds(child.lease)
            if unfinished and run.cancelling:
                run = store.runs.finish(run.id, RunStatus.CANCELLED, lease=child.lease)
            elif unfinished and (code or run.status is RunStatus.RUNNING):
                run = self._died(store, child, run)
            store.leases.release(child.lease)
        except (Fenced, NotFoundError):
            self._log("info", "a run was taken over by another worker", run=child.run)
            return
        if run.status.ended:
            self._deaths.pop(run.id, None)
            self._not_before.pop(run.id, None)
        self._log("info", "a run's process ended", run=run.id, status=run.status.value, code=code)

    def _died(self, store: Store, child: Child, run: Run) -> Run:
        code, lease = child.process.returncode, child.lease
        if code in (AWAY, LEFT):
            return run if run.status is RunStatus.QUEUED else store.runs.requeue(run.id, lease=lease)
        long = time.monotonic() - child.began > _LONG
        deaths = self._deaths[run.id] = 1 if long else self._deaths.get(run.id, 0) + 1
        tuning = store.pipelines.get(run.pipeline).tuning
        error = TransientError(
            "worker.run_died",
            f"the process of the run ended with {code}",
            remedy="Often out of memory: lower parallelism or batch_rows.",
        )
        store.runs.log(run.id, "error", f"{error.code}: {error.message}", None, lease=lease)
        if deaths > tuning.max_retries:
            if run.status is RunStatus.QUEUED:
                run = store.runs.start(run.id, lease)
            return store.runs.finish(run.id, RunStatus.FAILED, ErrorReport.of(error), lease=lease)
        self._not_before[run.id] = time.monotonic() + delay(tuning, deaths).total_seconds()
        return run if run.status is RunStatus.QUEUED else store.runs.requeue(run.id, lease=lease)

    def _cancel(self) -> None:
        """End the processes of runs that were cancelled and don't end by themselves."""
        if not self._children:
            return
        asked = self._store.queue.cancelling([child.run for child in self._children.values()])
        now = time.monotonic()
        for child in self._children.values():
            if child.run not in asked:
                continue
            if child.cancelled is None:
                waited = (datetime.now(UTC) - asked[child.run]).total_seconds()
                child.cancelled = now - min(max(waited, 0.0), KILL_AFTER)
            if now - child.cancelled >= KILL_AFTER:
                self._log("warning", "a cancelled run is killed", run=child.run)
                child.process.kill()

    def _leave(self) -> None:
        began, word = time.monotonic(), ""
        while self._children:
            waited = time.monotonic() - began
            wanted = "abort" if self._aborting or waited > LEAVE else "drain"
            if wanted != word:
                word = wanted
                for child in self._children.values():
                    child.say(word)
            if waited > LEAVE + 10:
                for child in self._children.values():
                    child.process.kill()
            self._look(lambda: None)
            if self._away and all(c.process.poll() is not None for c in self._children.values()):
                return  # nobody to tell; their leases run out
            self._told.clear()
            self._told.wait(0.05)
