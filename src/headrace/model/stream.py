"""What can be read, how it is cut, and where we are in it."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any

import pyarrow as pa

from headrace.errors import ConfigError

Position = dict[str, Any]
"""JSON that only the source which made it reads; `{}` is the start. Ordered within a slice."""

_PLAIN = re.compile(r'[^."\s]+')
_PART = re.compile(r'"((?:[^"]|"")*)"|([^."]+)')


def join_name(*parts: str | None) -> str:
    """One text for a name in parts: `public.orders`, or `"a.b"."my table"` where a part needs quotes."""
    return ".".join(p if _PLAIN.fullmatch(p) else '"' + p.replace('"', '""') + '"' for p in parts if p)


def split_name(text: str) -> tuple[str, ...]:
    """The parts of a name written by `join_name` or by a user.

    Raises ConfigError for text that is not a dotted name.
    """
    parts: list[str] = []
    at = 0
    while match := _PART.match(text, at):
        parts.append(match[2] if match[1] is None else match[1].replace('""', '"'))
        at = match.end()
        if at == len(text):
            return tuple(parts)
        if text[at] != ".":
            break
        at += 1
    raise ConfigError(
        "stream.name",
        f"{text!r} is not a stream name",
        field="stream",
        remedy='Write namespace.name, and put double quotes around a part that holds a dot: "a.b".orders.',
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """One table, topic, collection or file set.

    `primary_key` is what the source itself enforces; `cursors` are columns fit to be a cursor, and
    `default_cursor` is the one that misses no change, where the source knows of one.
    `rows` and `bytes` are estimates for people, None when the source cannot tell.
    """

    name: str
    schema: pa.Schema
    namespace: str | None = None
    primary_key: tuple[str, ...] = ()
    cursors: tuple[str, ...] = ()
    default_cursor: str | None = None
    kind: str = "table"
    rows: int | None = None
    bytes: int | None = None

    @property
    def id(self) -> str:
        """The name by which batches, positions and people refer to it."""
        return join_name(self.namespace, self.name)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "schema": base64.b64encode(self.schema.serialize().to_pybytes()).decode(),
            "namespace": self.namespace,
            "primary_key": list(self.primary_key),
            "cursors": list(self.cursors),
            "default_cursor": self.default_cursor,
            "kind": self.kind,
            "rows": self.rows,
            "bytes": self.bytes,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Stream:
        return cls(
            name=data["name"],
            schema=pa.ipc.read_schema(pa.py_buffer(base64.b64decode(data["schema"]))),
            namespace=data["namespace"],
            primary_key=tuple(data["primary_key"]),
            cursors=tuple(data["cursors"]),
            default_cursor=data.get("default_cursor"),
            kind=data["kind"],
            rows=data["rows"],
            bytes=data["bytes"],
        )


class ReadMode(StrEnum):
    """How a stream is read."""

    FULL = "full"  # everything, each time
    INCREMENTAL = "incremental"  # everything once, then what a cursor shows as new
    CHANGES = "changes"  # a change log: inserts, updates and deletes


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRead:
    """A stream and how a pipeline wants it read. `stream.schema` holds the chosen columns only.

    `cursor` is the column whose growth marks new rows (a source may give further names a meaning, as
    PostgreSQL does to `xmin`); `look_back` widens the lower bound of an incremental read, as a
    duration for time cursors; `filter` is a condition in the source's own language.
    """

    stream: Stream
    mode: ReadMode = ReadMode.FULL
    cursor: str | None = None
    look_back: timedelta | None = None
    filter: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "stream": self.stream.to_json(),
            "mode": self.mode.value,
            "cursor": self.cursor,
            "look_back": self.look_back.total_seconds() if self.look_back else None,
            "filter": self.filter,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> StreamRead:
        return cls(
            stream=Stream.from_json(data["stream"]),
            mode=ReadMode(data["mode"]),
            cursor=data["cursor"],
            look_back=timedelta(seconds=data["look_back"]) if data["look_back"] else None,
            filter=data["filter"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """The unit of parallelism and of resume within a run; plain data, so that it may travel.

    With `until` the slice is a piece of a *load*: all slices of its stream that were planned together
    are published in one commit, and the stream then stands at `until` (the same on each of them).
    Without, the slice publishes at its own checkpoints, and is the only slice of its streams.
    `bounds` is the source's own: it must hold no secret.
    """

    key: str
    reads: tuple[StreamRead, ...]
    bounds: dict[str, Any] = field(default_factory=dict)
    until: Position | None = None

    @property
    def read(self) -> StreamRead:
        """The one stream read of a slice of one table."""
        (read,) = self.reads
        return read

    def to_json(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "reads": [r.to_json() for r in self.reads],
            "bounds": self.bounds,
            "until": self.until,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Slice:
        return cls(
            key=data["key"],
            reads=tuple(StreamRead.from_json(r) for r in data["reads"]),
            bounds=data["bounds"],
            until=data["until"],
        )
