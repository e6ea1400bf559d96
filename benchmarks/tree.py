"""Run a command and measure it whole: wall and CPU seconds, and the peak of memory over all its processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
EVERY = 0.05
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Seconds; `peak` in bytes; `out` is what the command printed, `code` its exit code."""

    wall: float
    cpu: float
    peak: int
    out: str
    code: int


def run(
    command: Sequence[str | Path], *, folder: Path, env: Mapping[str, str], timeout: float = 300.0
) -> Spent:
    """Run to the end. After `timeout` seconds the whole process group is killed: `TimeoutError`.

    Python keeps its bytecode, as it does for users: without it each start compiles all that it imports.
    """
    users = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with (folder / "output").open("w+b") as out:
        began = time.perf_counter()
        process = subprocess.Popen(
            [str(word) for word in command], cwd=folder, env={**users, **env}, stdin=subprocess.DEVNULL,
            stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        late = threading.Event()

        def kill() -> None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

        def end() -> None:
            late.set()
            kill()

        timer = threading.Timer(timeout, end)
        timer.start()
        try:
            with Peak(process.pid) as peak:
                _, status, used = os.wait4(
                    process.pid, 0
                )  # counts descendants too, once they were waited for
        except BaseException:
            kill()
            process.wait()
            raise
        finally:
            timer.cancel()
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if late.is_set():
            raise TimeoutError(f"did not end within {timeout:.0f} s")
        out.seek(0)
        return Spent(
            wall=wall,
            cpu=used.ru_utime + used.ru_stime,
            peak=peak.bytes,
            out=out.read().decode(errors="replace"),
            code=process.returncode,
        )


class Peak:
    """By `with`: looks every 50 ms at the memory of a process and all its descendants, and keeps the most."""

    def __init__(self, root: int):
        self.root = root
        self.bytes = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.bytes = max(self.bytes, memory(self.root))
            if self._done.wait(EVERY):
                return


def descendants(root: int) -> list[int]:
    """`root` and all processes below it."""
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        for task in _entries(PROC / str(pid) / "task"):
            with contextlib.suppress(OSError):
                waiting += map(int, (task / "children").read_text().split())
    return found


def memory(root: int) -> int:
    """Bytes of a process tree: resident memory of one process, proportional shares where there are several.

    Shares count a page of a forked process once; they cost the kernel a walk, so a lone process is spared it.
    """
    pids = descendants(root)
    return _resident(pids[0]) if len(pids) == 1 else sum(map(_share, pids))


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _resident(pid: int) -> int:
    try:
        return int((PROC / str(pid) / "statm").read_text().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


def _share(pid: int) -> int:
    try:
        for line in (PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    except OSError:
        pass
    return 0
