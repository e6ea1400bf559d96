"""Reads an uploaded file in a process of its own: what is in the file can harm nothing but that."""

from __future__ import annotations

import json
import logging
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import IO, Any, NamedTuple

import pyarrow as pa

from headrace.connector.upload.kinds import Kind, kind_of
from headrace.errors import ConfigError, DataError, HeadraceError
from headrace.model.file import File, FileProfile, FileReject, ReadOptions

bugs = logging.getLogger("headrace.bugs")

FRAME = "<cQ"
"""A frame is its kind and the number of bytes that follow."""
KEPT = 10_000
"""So many rejects of a file come in full; of the others only the number."""
_LARGEST = 1 << 30


class Frame(Enum):
    BEAT = "h"
    PART = "p"
    PROFILE = "f"
    ERROR = "e"
    END = "z"


@dataclass(frozen=True)
class Limits:
    """`memory` in bytes, beyond what the process takes empty; `seconds` of processor time."""

    memory: int = 512 << 20
    seconds: int = 900


class Rows(NamedTuple):
    """Rows of a file, those rejects of the same stretch that are kept, and the numbers of others by code.

    One with no rows and no rejects tells that the reading goes on.
    """

    rows: pa.RecordBatch | None
    rejects: list[FileReject]
    more: Mapping[str, int]


@dataclass(eq=False)
class Parsing:
    """One file read once, by `profile` or by `rows`; `close` always follows.

    `file` has a descriptor of its own, which the process inherits; `name` is for messages.
    """

    file: IO[bytes]
    name: str
    kind: Kind
    options: ReadOptions
    limits: Limits = field(default_factory=Limits)
    _process: subprocess.Popen[bytes] | None = None

    @classmethod
    def of(cls, file: File, content: IO[bytes], limits: Limits) -> Parsing:
        """The file as it shall be read."""
        return cls(content, file.name, kind_of(file.name), file.options, limits)

    def profile(self) -> FileProfile:
        """Raises DataError or ConfigError for a file that can't be read."""
        for kind, data in self._frames(None):
            if kind is Frame.PROFILE:
                return FileProfile.from_json(json.loads(data))
        raise self._died()

    def rows(self, schema: pa.Schema) -> Iterator[Rows]:
        """The rows as `schema`, which has columns of the file; something at least every few seconds."""
        for kind, data in self._frames(schema):
            match kind:
                case Frame.BEAT:
                    yield Rows(None, [], {})
                case Frame.PART:
                    yield _rows(data)
                case Frame.END:
                    return
        raise self._died()

    def interrupt(self) -> None:
        """Let the reading fail soon; from any thread."""
        if self._process is not None:
            self._process.kill()

    def close(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()

    def __enter__(self) -> Parsing:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _frames(self, schema: pa.Schema | None) -> Iterator[tuple[Frame, bytes]]:
        descriptor = self.file.fileno()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "headrace.connector.upload.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=[descriptor],
            env=_environ(),
            start_new_session=True,  # a Ctrl-C is for us to hear
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        hello = {
            "descriptor": descriptor,
            "name": self.name,
            "kind": asdict(self.kind),
            "options": asdict(self.options),
            "schema": None if schema is None else schema.serialize().to_pybytes().hex(),
            "memory": self.limits.memory,
            "seconds": self.limits.seconds,
        }
        try:
            self._process.stdin.write(json.dumps(hello).encode() + b"\n")
            self._process.stdin.close()
        except BrokenPipeError:
            return
        out = self._process.stdout
        while len(head := out.read(struct.calcsize(FRAME))) == struct.calcsize(FRAME):
            letter, size = struct.unpack(FRAME, head)
            if size > _LARGEST:
                return
            data = out.read(size)
            if len(data) < size:
                return
            kind = Frame(letter.decode())
            if kind is Frame.ERROR:
                raise _error(json.loads(data))
            yield kind, data

    def _died(self) -> HeadraceError:
        assert self._process is not None
        code = self._process.wait()
        if code in (-signal.SIGXCPU, -signal.SIGKILL):
            why = f"took more than {self.limits.seconds} s of processor time, or was ended"
        else:
            why = "needed more memory than is allowed, or is damaged in a way that its reader can't bear"
        return DataError(
            "upload.parser_died",
            f"reading {self.name} was given up: it {why}",
            field="file",
            remedy="Send the file in parts, or in another format.",
        )


def _environ() -> dict[str, str]:
    """Only what Python needs to find this package; and one arena, since address space is scarce."""
    kept = {k: os.environ[k] for k in ("PATH", "PYTHONPATH", "VIRTUAL_ENV", "LANG", "TZ") if k in os.environ}
    return {**kept, "MALLOC_ARENA_MAX": "1", "ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}  # fmt: skip


def _rows(data: bytes) -> Rows:
    (size,) = struct.unpack_from("<I", data)
    said = json.loads(data[4 : 4 + size])
    with pa.ipc.open_stream(pa.py_buffer(memoryview(data)[4 + size :])) as stream:
        rows = stream.read_next_batch()
    rejects = [
        FileReject(line=line, column=column, code=code, message=message, raw=raw)
        for line, column, code, message, raw in said["rejects"]
    ]
    return Rows(rows, rejects, said["more"])


def _error(said: Mapping[str, Any]) -> HeadraceError:
    if said["trace"]:
        bugs.error("a file could not be read:\n%s", said["trace"])
    kind = ConfigError if said["kind"] == "config" else DataError
    error: HeadraceError = kind(said["code"], said["message"], field=said["field"], remedy=said["remedy"])
    return error
