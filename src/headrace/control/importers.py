"""Beside a worker: when imports of files wait, a process does them; old files are swept now and then."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta

from headrace.connector import egress
from headrace.control.child import environment
from headrace.control.lease import alive, holder, machine
from headrace.control.worker import Log, Place
from headrace.errors import HeadraceError, TransientError
from headrace.model.run import ErrorReport
from headrace.store import Store

DEATHS = 3
"""So many processes may die of one file; then its import has failed."""
_LOOK = 0.5  # seconds between two looks at what waits
_SWEEP = 3600.0  # seconds between two sweeps
_LEAVE = 20.0  # seconds that a process has to end
_TTL = timedelta(seconds=30)


class Importers:
    """`run` in a thread of its own, `stop` from any other. An import that is under way then is left to the
    next worker, which finds out whether its rows were committed."""

    def __init__(self, store: Store, place: Place, sweep: Callable[[], object], log: Log):
        self._store, self._place, self._sweep, self._log = store, place, sweep, log
        self._told = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._deaths: dict[str, int] = {}
        self._swept = -_SWEEP

    def run(self) -> None:
        """Work until told to stop; no process is left then."""
        while not self._told.is_set():
            try:
                self._look()
            except HeadraceError as error:
                self._log("warning", "imports can't be looked for", code=error.code, error=error.message)
            self._told.wait(_LOOK)
        self._leave()

    def stop(self) -> None:
        self._told.set()

    def _look(self) -> None:
        if self._process is not None:
            if self._process.poll() is None:
                return
            self._reap(self._process)
        if time.monotonic() - self._swept > _SWEEP:
            self._swept = time.monotonic()
            self._sweep()
        imports = self._store.imports
        if imports.waits([name for name in imports.holders() if not alive(name)]):
            self._start()

    def _start(self) -> None:
        hello = {
            "folder": str(self._place.folder),
            "environ": {k: v for k, v in self._place.environ.items() if k.startswith("HEADRACE_")},
            "egress": egress.policy().to_json(),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "headrace.control.import_child"],
            stdin=subprocess.PIPE,
            text=True,
            env=environment(self._place.environ),
            start_new_session=True,  # Ctrl-C is the worker's to hear
        )
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(hello) + "\n")
            self._process.stdin.flush()
        except OSError:
            pass  # it is about to be reaped

    def _reap(self, process: subprocess.Popen[str]) -> None:
        self._process = None
        if process.stdin:
            process.stdin.close()
        if process.returncode == 0:
            self._deaths.clear()
            return
        name = f"{machine()}{process.pid}"
        self._log("warning", "the process of an import died", code=process.returncode)
        claimed = self._store.imports.claim(holder(), _TTL, [name], only=name)
        if claimed is None:
            return
        file, lease = claimed
        deaths = self._deaths[file.id] = self._deaths.get(file.id, 0) + 1
        if deaths < DEATHS:
            self._store.imports.release(lease)
            return
        error = TransientError(
            "worker.import_died",
            f"the process of the import ended with {process.returncode}, {deaths} times",
            remedy="Often out of memory: import the file in parts.",
        )
        self._store.imports.finish(lease, None, (), ErrorReport.of(error))

    def _leave(self) -> None:
        process = self._process
        if process is None:
            return
        if process.stdin:
            process.stdin.close()  # which it understands
        try:
            process.wait(_LEAVE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
