"""A foreign program under guard: its output in chunks, its last words, and how it ended."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import select
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from headrace.connectors.airbyte.rules import Rules

_GUARD = Path(__file__).with_name("guard.py")
_CHUNK = 1 << 20
_LINE = 8 << 10  # bytes of a line of stderr that are kept
_POLL = 0.5  # seconds
_KEPT = 200  # lines of stderr


@dataclass(frozen=True, slots=True)
class Ended:
    """`status` is an exit code, or a signal as a negative number; `cause` says why we ended it."""

    status: int
    cause: str | None

    @property
    def well(self) -> bool:
        return self.status == 0 and self.cause is None


class Process:
    """Starts at once; `close` always follows, and leaves nothing of it alive."""

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        environ: Mapping[str, str],
        rules: Rules,
        *,
        seconds: float | None = None,
        said: Callable[[str], None] = lambda line: None,
    ):
        """`said` is told every line of stderr, from another thread."""
        _keep_to_ourselves()
        user = rules.user
        order = {
            "command": list(command),
            "folder": str(folder),
            "environ": dict(environ),
            "limits": rules.limits.for_guard(),
            "user": user.pw_uid if user else None,
            "group": user.pw_gid if user else None,
            "seconds": seconds,
            "grace": rules.limits.grace,
        }
        self._said = said
        self._report, report = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_GUARD), str(report)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(report,),
                env={"PATH": os.defpath},
                cwd="/",
                start_new_session=True,
                bufsize=0,
            )
        except BaseException:
            os.close(self._report)
            raise
        finally:
            os.close(report)
        assert self._process.stdin and self._process.stdout and self._process.stderr
        self._lifeline, self._out = self._process.stdin, self._process.stdout
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._out, fcntl.F_SETPIPE_SZ, _CHUNK)
        self.last_words: deque[str] = deque(maxlen=_KEPT)
        self._listener = threading.Thread(target=self._listen, name="headrace-connector", daemon=True)
        self._listener.start()
        self._ended: Ended | None = None
        self._tell(json.dumps(order).encode() + b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def chunks(self) -> Iterator[bytes]:
        """What the program writes, and `b""` for each half second in which it writes nothing."""
        descriptor = self._out.fileno()
        while True:
            if not select.select([descriptor], [], [], _POLL)[0]:
                yield b""
            elif chunk := os.read(descriptor, _CHUNK):
                yield chunk
            else:
                return

    def stop(self) -> None:
        """Ask it to end, and make it after the grace time; may be called from any thread."""
        self._tell(b"stop\n")

    def wait(self) -> Ended:
        """How it ended; its output must have been read."""
        if self._ended is None:
            told = b""
            while chunk := os.read(self._report, 4096):
                told += chunk
            self._process.wait()
            self._listener.join()
            found: dict[str, Any] = json.loads(told) if told else {"status": -9, "cause": "guard"}
            self._ended = Ended(found["status"], found["cause"])
        return self._ended

    def close(self) -> None:
        """End it now, with all that it started."""
        with contextlib.suppress(OSError):
            self._lifeline.close()
        if self._ended is None:
            self._drain()
            self.wait()
        self._out.close()
        if self._report >= 0:
            os.close(self._report)
            self._report = -1

    def _drain(self) -> None:
        with contextlib.suppress(OSError):
            while os.read(self._out.fileno(), _CHUNK):
                pass

    def _tell(self, line: bytes) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._lifeline.write(line)

    def _listen(self) -> None:
        stderr = self._process.stderr
        assert stderr
        rest = b""
        with stderr:
            while chunk := os.read(stderr.fileno(), 64 << 10):
                *lines, rest = (rest + chunk).split(b"\n")
                if len(rest) > _LINE:
                    lines.append(rest[:_LINE])
                    rest = b""
                for line in lines:
                    self._hear(line)
            if rest:
                self._hear(rest)

    def _hear(self, line: bytes) -> None:
        text = line[:_LINE].decode("utf-8", "replace").rstrip()
        if text:
            self.last_words.append(text)
            self._said(text)


_kept = False


def _keep_to_ourselves() -> None:
    """From now on no other process of our user may look into this one's memory and environment."""
    global _kept  # noqa: PLW0603 - it is a property of the process
    if not _kept:
        _kept = True
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE
