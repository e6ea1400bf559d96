"""Runs a COPY in compiled code where it can be had, by numpy where it can't: blocks of rows either way."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from ctypes import Structure, byref, c_char_p, c_int32, c_int64, c_void_p
from typing import Any

import psycopg
from psycopg import pq

from headrace import native
from headrace.connectors.postgres import compiled, decode, wire
from headrace.connectors.postgres.compiled import Flow
from headrace.connectors.postgres.decode import Block, Bytes
from headrace.connectors.postgres.session import Session
from headrace.connectors.postgres.types import Image
from headrace.connectors.postgres.wire import begin, cancelled_if_left, copy_out, finish

_WAIT = 20  # milliseconds without a byte after which Python may look at its signals
_ENDED, _FAILED = 1, 2
_FUNCTIONS = ("PQgetCopyData", "PQfreemem", "PQconsumeInput", "PQsocket")


def blocks(
    session: Session, command: bytes, names: Sequence[str], images: Sequence[Image]
) -> Iterator[Block | None]:
    """The rows of a COPY, and None whenever none came for a while. A block's bytes are good until the next.

    Raises psycopg's errors, and Garbled for bytes that are not the rows asked for.
    """
    library, libpq = native.library(), _libpq()
    if library is None:
        yield from decode.decoded(copy_out(session, command), names, images)
    elif libpq is None:
        yield from compiled.decoded(library, joined(copy_out(session, command)), names, images)
    else:
        with cancelled_if_left(session):
            yield from begin(session.pgconn, command)
            with contextlib.closing(_Stream(library, libpq, session.pgconn)) as stream:
                yield from compiled.decoded(library, stream, names, images)


def joined(messages: Iterable[Any]) -> compiled.Fill:
    """Messages that come as Python's objects, cut anywhere; None for quiet."""
    source, left = iter(messages), memoryview(b"")

    def fill(buffer: Bytes, used: int) -> tuple[int, Flow]:
        nonlocal left
        target = buffer.data
        while True:
            some = min(len(left), len(buffer) - used)
            target[used : used + some] = left[:some]
            left, used = left[some:], used + some
            if len(left):
                return used, Flow.MORE
            part = next(source, b"")
            if part is None:
                return used, Flow.QUIET
            if not len(part):
                return used, Flow.ENDED
            left = memoryview(part)

    return fill


@functools.cache
def _libpq() -> ctypes.CDLL | None:
    """The libpq that psycopg's compiled part is linked with: its symbols are found by way of that part."""
    place = getattr(sys.modules[pq.PGconn.__module__], "__file__", None)
    if place is None or not hasattr(pq.PGconn, "pgconn_ptr"):
        return None
    try:
        found = ctypes.CDLL(place)
        for name in _FUNCTIONS:
            getattr(found, name)
        return found if found.PQlibVersion() == pq.version() else None
    except (OSError, AttributeError):
        return None


class _State(Structure):
    _fields_ = [
        ("connection", c_void_p), ("get", c_void_p), ("free", c_void_p), ("consume", c_void_p),
        ("socket", c_void_p), ("message", c_char_p), ("size", c_int64), ("taken", c_int64),
    ]  # fmt: skip


class _Stream:
    """The bytes of the COPY that runs on a connection, received without the interpreter lock."""

    def __init__(self, library: ctypes.CDLL, libpq: ctypes.CDLL, connection: pq.abc.PGconn):
        self._library, self._connection = library, connection
        address: int = connection.pgconn_ptr  # type: ignore[attr-defined]
        self._state = _State(address, *(ctypes.cast(getattr(libpq, name), c_void_p) for name in _FUNCTIONS))
        self._last_word: Iterator[None] | None = None

    def __call__(self, buffer: Bytes, used: int) -> tuple[int, Flow]:
        patience = time.monotonic() + wire.QUIET
        while used < len(buffer):
            if self._last_word is not None:
                return used, next((Flow.QUIET for _ in self._last_word), Flow.ENDED)
            got = c_int64(0)
            status = self._library.headrace_receive(
                byref(self._state),
                c_void_p(buffer.ctypes.data + used),
                c_int64(len(buffer) - used),
                c_int32(_WAIT),
                byref(got),
            )
            used += got.value
            if status == _FAILED:
                raise psycopg.OperationalError(self._connection.get_error_message())
            if status == _ENDED:
                self._last_word = finish(self._connection)
            elif got.value:
                patience = time.monotonic() + wire.QUIET
            elif time.monotonic() > patience:
                return used, Flow.QUIET
        return used, Flow.MORE

    def close(self) -> None:
        self._library.headrace_release(byref(self._state))
