"""Runs one foreign program within limits, and takes down with it all that it started.

Started as `python -I -S guard.py FD` with nothing of ours to import and next to no environment. Its stdin is
a lifeline: the first line says what to run, any further line asks it to end, and the end of the file means
that whoever wanted it is dead. How the program ended is written to the descriptor FD as JSON.

Linux does most of this. Elsewhere the limits that the system knows still hold.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

_LOOK = 0.1  # seconds between two looks at what the program uses
_DISK_LOOK = 1.0
_DIED, _NO_NEW_PRIVILEGES, _SUBREAPER, _DROP_BOUND = 1, 38, 36, 24  # of prctl
_NEW_PIDS = 0x20000000  # of unshare
_PAGE = resource.getpagesize()


def prctl(option: int, value: int) -> bool:
    try:
        return bool(ctypes.CDLL(None).prctl(option, value, 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False


def unshare(what: int) -> bool:
    try:
        return bool(ctypes.CDLL(None).unshare(what) == 0)
    except (OSError, AttributeError):
        return False


def _drop_capabilities() -> bool:
    """Root without capabilities can't look into processes that have them, and is bound by permissions."""
    for capability in range(64):
        prctl(_DROP_BOUND, capability)
    try:
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        return bool(ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)()) == 0)
    except (OSError, AttributeError):
        return False


class Guard:
    def __init__(self, order: dict[str, Any]):
        self.order = order
        self.limits: dict[str, int] = order["limits"]
        self.cause: str | None = None
        self.stop_at: float | None = None
        self.program = 0
        self.status: int | None = None
        self.told, self.tell = os.pipe2(os.O_CLOEXEC)
        self.apart = os.geteuid() == 0 and unshare(_NEW_PIDS)
        prctl(_SUBREAPER, 1)

    def run(self) -> dict[str, Any]:
        woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: self._end("orphaned"))
        self.program = os.fork()
        if not self.program and self.apart:
            _first(self.order, self.tell)
        if not self.program:
            _become(self.order)
        for descriptor in (1, 2, self.tell):  # or nobody would ever see the end of what is written there
            os.close(descriptor)
        listening = [0, woken]
        began, looked = time.monotonic(), 0.0
        while self.status is None:
            ready = select.select(listening, [], [], _LOOK)[0]
            with contextlib.suppress(BlockingIOError):
                os.read(woken, 4096)
            self._reap()
            if 0 in ready:
                if os.read(0, 4096):
                    self._ask_to_end("stopped")
                else:
                    listening.remove(0)
                    self._end("orphaned")
            now = time.monotonic()
            if self.stop_at is not None and now >= self.stop_at:
                self._end(self.cause)
            elif self.order["seconds"] and now - began > self.order["seconds"]:
                self._ask_to_end("time")
            if now - looked >= _LOOK:
                looked = now
                self._look(now)
        self._kill_all()
        return {"status": self.status, "cause": self.cause}

    def _ask_to_end(self, cause: str) -> None:
        if self.stop_at is None:
            self.cause = cause
            self.stop_at = time.monotonic() + self.order["grace"]
            with contextlib.suppress(OSError):
                (os.kill if self.apart else os.killpg)(self.program, signal.SIGTERM)

    def _end(self, cause: str | None) -> None:
        self.cause = self.cause or cause
        self.stop_at = float("inf")
        self._kill_all()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid == self.program:
                self.status = int(os.read(self.told, 16) or -9) if self.apart else _code(status)

    _disk_looked = 0.0

    def _look(self, now: float) -> None:
        family = list(descendants())
        if len(family) > self.limits["processes"]:
            self._end("processes")
        elif sum(map(_resident, family)) > self.limits["memory"]:
            self._end("memory")
        elif now - self._disk_looked >= _DISK_LOOK:
            self._disk_looked = now
            if _disk(self.order["folder"]) > self.limits["disk"]:
                self._end("disk")

    def _kill_all(self) -> None:
        """Stop all of them before any is killed, so that none is born meanwhile.

        Where processes are numbered apart, they die with the first.
        """
        with contextlib.suppress(OSError):
            (os.kill if self.apart else os.killpg)(self.program, signal.SIGKILL)
        while family := [pid for pid in descendants() if pid != os.getpid()]:
            stopped: set[int] = set()
            while new := set(family) - stopped:
                _signal(new, signal.SIGSTOP)
                stopped |= new
                family = list(descendants())
            _signal(stopped, signal.SIGKILL)
            self._reap()
            time.sleep(0.005)
        self._reap()


def _code(status: int) -> int:
    return os.waitstatus_to_exitcode(status)


def _first(order: dict[str, Any], tell: int) -> None:
    """In the child, where processes are numbered apart: be their first, without which they all die."""
    prctl(_DIED, signal.SIGKILL)
    program = os.fork()
    if not program:
        _become(order)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, lambda *_: os.killpg(program, signal.SIGTERM))
    for descriptor in (1, 2):
        os.close(descriptor)
    while True:
        pid, status = os.wait()
        if pid == program:
            os.write(tell, str(_code(status)).encode())
            os._exit(0)


def _signal(pids: set[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, number)


def _become(order: dict[str, Any]) -> None:
    """In the child: turn into the program. Never returns."""
    try:
        os.setsid()
        os.umask(0o077)
        os.chdir(order["folder"])
        with contextlib.suppress(OSError):
            os.nice(5)
        limits = order["limits"]
        for kind, most in (
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_NOFILE, limits["files"]),
            (resource.RLIMIT_FSIZE, limits["file"]),
            (resource.RLIMIT_AS, limits["address"]),
            (resource.RLIMIT_NPROC, limits["processes"] + _tasks(order["user"])),
        ):
            hard = resource.getrlimit(kind)[1]
            bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(kind, (bound, bound))
        if order["user"] is not None:
            os.setgroups([])
            os.setgid(order["group"])
            os.setuid(order["user"])
        elif os.geteuid() == 0:
            _drop_capabilities()
        prctl(_NO_NEW_PRIVILEGES, 1)
        prctl(_DIED, signal.SIGKILL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        os.execve(order["command"][0], order["command"], order["environ"])
    except BaseException as error:
        os.write(2, f"can't start {order['command'][0]}: {error}\n".encode())
    os._exit(127)


def _stats() -> Iterator[tuple[int, int]]:
    """Every process with its parent."""
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir("/proc"):
            if name.isdigit():
                with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{name}/stat") as file:
                    state, parent = file.read().rpartition(")")[2].split()[:2]
                    if state != "Z":
                        yield int(name), int(parent)


def descendants() -> Iterator[int]:
    """The living below this process; orphans among them come to us, as their reaper."""
    children: dict[int, list[int]] = {}
    for pid, parent in _stats():
        children.setdefault(parent, []).append(pid)
    pending = [os.getpid()]
    while pending:
        found = children.get(pending.pop(), [])
        yield from found
        pending += found


def _tasks(user: int | None) -> int:
    """How many threads the user runs already: the system's limit counts them too."""
    owner = os.getuid() if user is None else user
    count = 0
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir("/proc"):
            with contextlib.suppress(OSError):
                if name.isdigit() and os.stat(f"/proc/{name}").st_uid == owner:
                    count += len(os.listdir(f"/proc/{name}/task"))
    return count


def _resident(pid: int) -> int:
    with contextlib.suppress(OSError, IndexError), open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * _PAGE
    return 0


def _disk(folder: str) -> int:
    """Bytes on disk below a folder; what can't be read counts nothing."""
    total, pending = 0, [folder]
    while pending:
        with contextlib.suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
    return total


def main() -> None:
    report = int(sys.argv[1])
    os.set_inheritable(report, False)
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            return
        line += byte
    with contextlib.suppress(OSError, AttributeError):  # or a thousand processes would not let us look
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    ended = Guard(json.loads(line)).run()
    with contextlib.suppress(BrokenPipeError):
        os.write(report, json.dumps(ended).encode())


if __name__ == "__main__":
    main()
