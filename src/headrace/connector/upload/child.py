"""The process that reads one uploaded file: `python -m headrace.connector.upload.child`.

The first line on stdin says what to do; the file is an open descriptor. Answers go out as frames (see
`process`). It has no secrets, can't write files, and has bounds of memory and time.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import struct
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from headrace.connector.files.part import Part, RowError, shorten
from headrace.connector.upload.kinds import Kind
from headrace.connector.upload.opened import Opened
from headrace.connector.upload.process import FRAME, KEPT, Frame
from headrace.connector.upload.profile import row_json
from headrace.errors import ConfigError, DataError, HeadraceError
from headrace.model.file import FileProfile, ReadOptions

_READERS = {
    "csv": "delimited",
    "json": "objects",
    "jsonl": "objects",
    "parquet": "columnar",
    "avro": "avro",
    "xlsx": "workbook",
    "xls": "workbook",
}
_BEAT = 1.0  # seconds


class Reader(Protocol):
    """What each format's module offers."""

    profile: Callable[[Opened], FileProfile]
    read: Callable[[Opened, pa.Schema], Iterator[Part]]


class _Out:
    """Frames to the parent, from two threads."""

    def __init__(self) -> None:
        self._file = os.fdopen(os.dup(1), "wb", buffering=0)
        os.dup2(2, 1)  # whatever a library prints must not get between the frames
        self._lock = threading.Lock()

    def send(self, kind: Frame, data: bytes = b"") -> None:
        with self._lock:
            for piece in (struct.pack(FRAME, kind.value.encode(), len(data)), data):
                rest = memoryview(piece)
                while rest:
                    rest = rest[self._file.write(rest) :]


def main() -> None:
    hello = json.loads(sys.stdin.readline())
    out = _Out()
    reader: Any = importlib.import_module(f"headrace.connector.upload.{_READERS[hello['kind']['format']]}")
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    _confine(hello["memory"], hello["seconds"])
    threading.Thread(target=_beat, args=(out,), daemon=True).start()
    try:
        _answer(hello, reader, out)
    except HeadraceError as error:
        _fail(out, error)
    except MemoryError:
        _fail(out, _too_large())
    except BrokenPipeError:
        os._exit(1)
    except Exception:
        _fail(out, _unreadable(hello["name"], hello["kind"]["format"]), traceback.format_exc())
    os._exit(0)


def _confine(memory: int, seconds: int) -> None:
    """`memory` bytes more than it has now. A file may not be larger than it is: nothing is written."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for limit, value in (
        (resource.RLIMIT_AS, size + memory),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))


def _beat(out: _Out) -> None:
    """Say that we are alive; end with the parent."""
    while True:
        threading.Event().wait(_BEAT)
        try:
            out.send(Frame.BEAT)
        except OSError:
            os._exit(1)


def _answer(hello: Mapping[str, Any], reader: Reader, out: _Out) -> None:
    options = {**hello["options"], "null_values": tuple(hello["options"]["null_values"])}
    with os.fdopen(hello["descriptor"], "rb") as file:
        file.seek(0)
        upload = Opened(file, hello["name"], Kind(**hello["kind"]), ReadOptions(**options))
        if hello["schema"] is None:
            out.send(Frame.PROFILE, json.dumps(reader.profile(upload).to_json()).encode())
            return
        schema = pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(hello["schema"])))
        told: dict[str, int] = {}
        for part in reader.read(upload, schema):
            _send_part(out, part, schema, told)
        out.send(Frame.END)


def _send_part(out: _Out, part: Part, schema: pa.Schema, told: dict[str, int]) -> None:
    """The rows, the first rejects of all and of each code in full, and the numbers of the others by code.

    `told` counts those in full, by code.
    """
    full, more, left = [], dict[str, int](), KEPT - sum(told.values())
    for error in part.errors:
        if left > 0 or error.code not in told:
            full.append(error)
            told[error.code] = told.get(error.code, 0) + 1
            left -= 1
        else:
            more[error.code] = more.get(error.code, 0) + 1
    said = json.dumps({"rejects": [_reject(e, schema) for e in full], "more": more}).encode()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, part.rows.schema) as writer:
        writer.write_batch(part.rows)
    out.send(Frame.PART, struct.pack("<I", len(said)) + said + sink.getvalue().to_pybytes())


def _reject(error: RowError, schema: pa.Schema) -> list[Any]:
    """Line, column, code, message and raw text."""
    named = [n for n in schema.names if error.reason.startswith(f"{n}: ")]
    column = max(named, key=len, default=None) if error.code in ("TYPE_MISMATCH", "OUT_OF_RANGE") else None
    raw = error.row if isinstance(error.row, str) else row_json(error.row or {})
    return [error.line, column, error.code, shorten(error.reason), shorten(raw)]


def _fail(out: _Out, error: HeadraceError, trace: str = "") -> None:
    kind = "config" if isinstance(error, ConfigError) else "data"
    out.send(Frame.ERROR, json.dumps({"kind": kind, "trace": trace, **error.as_dict()}).encode())


def _too_large() -> DataError:
    return DataError(
        "upload.memory",
        "the file needs more memory to be read than is allowed",
        field="file",
        remedy="Send it in parts, or as csv or parquet in smaller row groups.",
    )


def _unreadable(name: str, format: str) -> DataError:
    return DataError(
        "upload.unreadable",
        f"{name} can't be read as {format}: it is damaged or not written as the format asks",
        field="file",
        remedy="Write the file again, or send it in another format.",
    )


if __name__ == "__main__":
    main()
