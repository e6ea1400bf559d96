"""Hold the lease of a pipeline for as long as this process works on it."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from pathlib import Path

from headrace.engine.stop import Stop
from headrace.errors import ConflictError, Fenced, TransientError
from headrace.store import Lease, Store

TTL = timedelta(seconds=30)
_BEATS = 3  # renewals in the time of a lease


@cache
def machine() -> str:
    """What all holders on this machine begin with. A name alone would not do: containers share theirs."""
    known = ""
    with suppress(OSError):
        known = Path("/proc/sys/kernel/random/boot_id").read_text() + str(
            Path("/proc/self/ns/pid").readlink()
        )
    return f"{socket.gethostname()}-{hashlib.sha256(known.encode()).hexdigest()[:6]}/"


def holder() -> str:
    """What leases call this process."""
    return f"{machine()}{os.getpid()}"


def acquire(store: Store, pipeline: str, ttl: timedelta = TTL) -> Lease:
    """The lease, for this process. Raises ConflictError while another live process holds it.

    One that died on this machine is succeeded at once, without waiting for its lease to run out.
    """
    try:
        return store.leases.acquire(pipeline, holder(), ttl)
    except ConflictError:
        last = store.leases.get(pipeline)
        if last and alive(last.holder):
            raise
        if last:
            store.leases.release(last)
        return store.leases.acquire(pipeline, holder(), ttl)


@contextmanager
def held(store: Store, pipeline: str, stop: Stop) -> Iterator[Lease]:
    """Acquired (see `acquire`), and kept."""
    with kept(store, acquire(store, pipeline), stop) as lease:
        yield lease


@contextmanager
def kept(store: Store, lease: Lease, stop: Stop, ttl: timedelta = TTL) -> Iterator[Lease]:
    """Renewed in the background, and released in the end; when it is lost, `stop` is told to abort."""
    done = threading.Event()
    heart = threading.Thread(target=_beat, args=(store, lease, stop, ttl, done), name="lease", daemon=True)
    heart.start()
    try:
        yield lease
    finally:
        done.set()
        heart.join()
        with suppress(TransientError):  # a store that is away: it runs out by itself
            store.leases.release(lease)


def _beat(store: Store, lease: Lease, stop: Stop, ttl: timedelta, done: threading.Event) -> None:
    missed = 0
    while not done.wait(ttl.total_seconds() / _BEATS):
        try:
            store.leases.renew(lease, ttl)
            missed = 0
        except Fenced:
            stop.abort()
            return
        except TransientError:
            missed += 1
            if missed >= _BEATS:
                stop.abort()
                return


def alive(name: str) -> bool:
    """Could that holder still be at work? Only about our own machine can we know."""
    pid = name.removeprefix(machine())
    if pid == name or not pid.isdigit():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
