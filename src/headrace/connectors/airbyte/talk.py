"""What a connector says: its messages, what of them goes into a log, and which error its end means."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import orjson

from headrace.connectors.airbyte.mask import Mask
from headrace.connectors.airbyte.process import Ended, Process
from headrace.errors import ConfigError, DataError, HeadraceError, TransientError

_LEVELS = {"FATAL": "error", "ERROR": "error", "WARN": "warning", "DEBUG": "debug", "TRACE": "debug"}
_HELD = 10_000  # lines that wait for somebody to take them
_LONGEST = 4000  # characters of a line
_SHOWN = 5  # last lines of stderr in an error

Message = dict[str, Any]
TYPES = frozenset({"RECORD", "STATE", "LOG", "SPEC", "CONNECTION_STATUS", "CATALOG", "TRACE", "CONTROL"})


class Journal:
    """Lines for a log, without secrets, at a bearable rate. Written from any thread."""

    def __init__(self, mask: Mask, per_second: int):
        self.mask = mask
        self._per_second = per_second
        self._lock = threading.Lock()
        self._lines: deque[tuple[str, str]] = deque()
        self._second = 0
        self._written = self._left_out = 0

    def write(self, level: str, text: str) -> None:
        with self._lock:
            second = int(time.monotonic())
            if second != self._second:
                self._second, self._written = second, 0
            if self._written >= self._per_second or len(self._lines) >= _HELD:
                self._left_out += 1
                return
            self._written += 1
        line = self.mask(text)[:_LONGEST]
        with self._lock:
            self._lines.append((level, line))

    def heard(self, line: str) -> None:
        """A line of stderr."""
        self.write("warning", line)

    def take(self) -> list[tuple[str, str]]:
        with self._lock:
            taken = list(self._lines)
            self._lines.clear()
            left_out, self._left_out = self._left_out, 0
        if left_out:
            taken.append(("warning", f"{left_out} more lines came too fast and were left out"))
        return taken


def lines(process: Process, limit: int) -> Iterator[list[bytes]]:
    """The lines of its output, as many as are there; none for each half second of silence.

    Raises DataError for a line longer than `limit`.
    """
    held: list[bytes] = []
    size = 0
    for chunk in process.chunks():
        first, *others = chunk.split(b"\n")
        held.append(first)
        size += len(first)
        if size > limit or any(len(line) > limit for line in others):
            raise DataError(
                "airbyte.line_too_long",
                f"the connector wrote a line of more than {limit} bytes",
                remedy="A record this large can't be moved: leave the field out in the connector's settings.",
            )
        if others:
            found = [b"".join(held), *others[:-1]]
            held = [others[-1]]
            size = len(others[-1])
            yield found
        elif not chunk:
            yield []
    if size:
        yield [b"".join(held)]


def parse(line: bytes, journal: Journal) -> Message | None:
    """A message, or None for what is none: that goes into the journal."""
    message: Any = None
    try:
        message = orjson.loads(line)
    except ValueError:
        with suppress(ValueError, RecursionError):  # NaN, and halves of surrogate pairs
            message = json.loads(line)
    if isinstance(message, dict) and message.get("type") in TYPES:
        return message
    if text := line[: _LONGEST * 4].decode("utf-8", "replace").strip():
        journal.write("info", text)
    return None


def log(message: Message, journal: Journal) -> None:
    """A LOG message."""
    entry = message.get("log")
    if isinstance(entry, dict):
        journal.write(_LEVELS.get(str(entry.get("level")), "info"), str(entry.get("message", "")))


def raw_member(line: bytes, name: str) -> str:
    """The text of a member of the object in `line`, just as it stands there. Raises ValueError."""
    text = line.decode()
    decoder = json.JSONDecoder()
    at = text.index("{") + 1
    while True:
        key, at = decoder.raw_decode(text, _past(text, at, " \t\r\n,"))
        start = _past(text, at, " \t\r\n:")
        _, at = decoder.raw_decode(text, start)
        if key == name:
            return text[start:at]


def _past(text: str, at: int, skipped: str) -> int:
    while text[at] in skipped:
        at += 1
    return at


def trace_error(message: Message) -> Mapping[str, Any] | None:
    """The error of a TRACE message, if it is one."""
    trace = message.get("trace")
    error = trace.get("error") if isinstance(trace, dict) and trace.get("type") == "ERROR" else None
    return error if isinstance(error, dict) else None


def raised(error: Mapping[str, Any], mask: Mask) -> HeadraceError:
    """The connector's own account of what went wrong, as one of our errors."""
    text = mask(str(error.get("message") or error.get("internal_message") or "no reason given"))[:_LONGEST]
    match error.get("failure_type"):
        case "config_error":
            return ConfigError(
                "airbyte.config_error",
                f"the connector: {text}",
                remedy="Correct the settings of the connection.",
            )
        case "transient_error":
            return TransientError(
                "airbyte.transient_error", f"the connector: {text}", remedy="Try again later."
            )
    return TransientError(
        "airbyte.system_error",
        f"the connector: {text}",
        remedy="Look at the log of the run; another version of the connector may do.",
    )


def fault(ended: Ended, last_words: Iterable[str], mask: Mask) -> HeadraceError | None:
    """What is wrong with how a connector ended, when it gave no reason itself; None if nothing is."""
    if ended.well:
        return None
    words = [mask(line) for line in last_words]
    if ended.cause in ("processes", "disk", "memory") or (ended.cause is None and _out_of_memory(words)):
        return ConfigError(
            "airbyte.limit",
            f"the connector was ended: it used more {_MEANS[ended.cause or 'memory']} than it may",
            remedy="Raise the limit with HEADRACE_CONNECTORS_LIMITS, or read fewer streams or columns.",
        )
    if ended.cause == "time":
        return TransientError(
            "airbyte.too_slow", "the connector did not answer in time", remedy="Is its far side within reach?"
        )
    if ended.cause is not None:
        return TransientError("airbyte.stopped", "the connector was stopped", remedy="Start the run again.")
    how = f"exit code {ended.status}"
    if ended.status < 0:
        how = f"signal {_signal(-ended.status)}"
        if ended.status == -signal.SIGKILL:
            how += ", most often for lack of memory"
    said = "".join(f"\n  {line[:300]}" for line in words[-_SHOWN:])
    return TransientError(
        "airbyte.died", f"the connector ended with {how}{said}", remedy="Look at the log of the run."
    )


_MEANS = {"processes": "processes", "disk": "disk", "memory": "memory"}


def _out_of_memory(words: list[str]) -> bool:
    return bool(words) and words[-1].startswith("MemoryError")


def _signal(number: int) -> str:
    with suppress(ValueError):
        return signal.Signals(number).name
    return str(number)
