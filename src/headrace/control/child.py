"""A process that carries out one run for a worker: `python -m headrace.control.child`.

The first line on stdin says which run, under which lease, and how to open the store: secrets come this
way, never by arguments or the environment. A further line `drain` or `abort` stops the run, and the end
of stdin says that the worker is gone: the run goes back to the queue.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self, TextIO

from headrace.connector import egress
from headrace.control.access import operator
from headrace.control.execution import Execution
from headrace.control.lease import kept
from headrace.control.pipelines import Pipelines, job
from headrace.control.platform import open_store
from headrace.control.watch import Nobody
from headrace.engine.stop import Stop
from headrace.errors import ConflictError, Fenced, HeadraceError, TransientError
from headrace.model.run import ErrorReport, Run, RunStatus
from headrace.store import Lease, Store

NEEDED = ("HEADRACE_STORE", "HEADRACE_MASTER_KEY", "HEADRACE_CONNECTORS_FOLDER")
"""The variables that tell how to open the store, and where added connectors are."""
LEFT = 9
"""How the process ends when the pipeline is somebody else's by now."""
AWAY = 6
"""How it ends when the store is away: the worker sees to the run."""
_LAST = 5.0  # seconds to give the run back, once the worker is gone


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """What the process must know. `environ` has the variables of `NEEDED` that are set."""

    folder: str
    environ: Mapping[str, str]
    egress: Mapping[str, Any]
    workspace: str
    run: str
    lease: Lease
    ttl: float

    def to_json(self) -> dict[str, Any]:
        lease = asdict(self.lease) | {"expires_at": self.lease.expires_at.isoformat()}
        return {name: getattr(self, name) for name in self.__slots__} | {"lease": lease}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        until = datetime.fromisoformat(data["lease"]["expires_at"])
        return cls(**{**data, "lease": Lease(**{**data["lease"], "expires_at": until})})


_HARMLESS = frozenset({"HEADRACE_FAILPOINT"}) | {
    f"HEADRACE_CONNECTORS_{name}" for name in ("FOLDER", "USER", "LIMITS", "PROXY", "CA_BUNDLE")
}


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What such a process inherits: nothing of ours, where keys and addresses are, but the failpoint and
    what the operator decided about connectors."""
    kept = {k: v for k, v in environ.items() if not k.startswith("HEADRACE_") or k in _HARMLESS}
    return {"ARROW_DEFAULT_MEMORY_POOL": "system", **kept}


def main() -> int:
    gc.set_threshold(50_000)
    hello = Hello.from_json(json.loads(sys.stdin.readline()))
    egress.restrict(egress.Policy.from_json(hello.egress))
    stop = Stop()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the worker's to hear
    signal.signal(signal.SIGTERM, lambda *_: stop.drain())
    threading.Thread(target=_listen, args=(sys.stdin, stop), name="worker", daemon=True).start()
    sys.stdout = sys.stderr  # whatever a driver prints
    try:
        with closing(open_store(Path(hello.folder), hello.environ)) as whole:
            store = whole.within(hello.workspace)
            ttl = timedelta(seconds=hello.ttl)
            store.leases.renew(hello.lease, ttl)  # the first one was long, so that there was time to start
            with kept(store, hello.lease, stop, ttl) as lease:
                _carry_out(store, hello.run, lease, stop)
    except Fenced:
        return LEFT
    except TransientError:
        return AWAY
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def _carry_out(store: Store, id: str, lease: Lease, stop: Stop) -> None:
    run = store.runs.get(id)
    try:
        if run.status is RunStatus.RUNNING:  # left by a worker that died
            run = store.runs.requeue(id, lease=lease)
        if run.status.ended:
            return
        execution = _prepare(store, run, lease, stop)
    except (Fenced, TransientError):
        raise
    except ConflictError:
        return  # cancelled in this very moment
    except HeadraceError as error:
        run = store.runs.start(id, lease)
        store.runs.log(id, "error", f"{error.code}: {error.message}", None, lease=lease)
        store.runs.finish(id, RunStatus.FAILED, ErrorReport.of(error), lease=lease)
        return
    execution.to_the_end(run)


def _prepare(store: Store, run: Run, lease: Lease, stop: Stop) -> Execution:
    pipeline = store.pipelines.get(run.pipeline)
    source, target = Pipelines(store).ends(operator(store.workspace), pipeline)
    ready = job(pipeline, source, target)
    return Execution(store=store, job=ready, lease=lease, stop=stop, watcher=Nobody(), hands_over=True)


def _listen(lines: TextIO, stop: Stop) -> None:
    for line in lines:
        if line.strip() == "abort":
            stop.abort()
        else:
            stop.drain()
    stop.abort()
    threading.Event().wait(_LAST)
    os._exit(1)


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # a reader that is stuck in its driver holds nobody up
