"""Hold the lease of a pipeline for as long as this process works on it."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from headrace.engine.stop import Stop
from headrace.errors import ConflictError, Fenced, TransientError
from headrace.store import Lease, Store

TTL = timedelta(seconds=30)
_BEAT = TTL.total_seconds() / 3


def holder() -> str:
    """What leases call this process."""
    return f"{socket.gethostname()}/{os.getpid()}"


@contextmanager
def held(store: Store, pipeline: str, stop: Stop) -> Iterator[Lease]:
    """The lease, renewed in the background; when it is lost, `stop` is told to abort.

    Raises ConflictError while another live process holds it. One that died on this machine is
    succeeded at once, without waiting for its lease to run out.
    """
    try:
        lease = store.leases.acquire(pipeline, holder(), TTL)
    except ConflictError:
        last = store.leases.get(pipeline)
        if last and alive(last.holder):
            raise
        if last:
            store.leases.release(last)
        lease = store.leases.acquire(pipeline, holder(), TTL)
    done = threading.Event()
    heart = threading.Thread(target=_beat, args=(store, lease, stop, done), name="lease", daemon=True)
    heart.start()
    try:
        yield lease
    finally:
        done.set()
        heart.join()
        store.leases.release(lease)


def _beat(store: Store, lease: Lease, stop: Stop, done: threading.Event) -> None:
    missed = 0
    while not done.wait(_BEAT):
        try:
            store.leases.renew(lease, TTL)
            missed = 0
        except Fenced:
            stop.abort()
            return
        except TransientError:
            missed += 1
            if missed * _BEAT >= TTL.total_seconds():
                stop.abort()
                return


def alive(name: str) -> bool:
    """Could that holder still be at work? Only about our own machine can we know."""
    host, _, pid = name.rpartition("/")
    if host != socket.gethostname() or not pid.isdigit():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
