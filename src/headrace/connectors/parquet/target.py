"""Writes tables of Parquet files: rows and token become visible with one new file in the table's log."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Iterator, Sequence
from datetime import timedelta
from urllib.parse import quote

import pyarrow as pa

from headrace.connector import (
    Maintained,
    Maintenance,
    Slice,
    Staged,
    Stream,
    Target,
    Token,
    Wear,
    WriteMode,
    Writer,
)
from headrace.connector.files import open_storage
from headrace.connectors.parquet import ParquetConfig
from headrace.connectors.parquet.log import Commit, File, Log, Manifest
from headrace.connectors.parquet.maintain import maintain
from headrace.connectors.parquet.types import grown, image
from headrace.connectors.parquet.writer import SliceWriter
from headrace.errors import ConfigError, StageLost, TransientError

_TRIES = 30  # commits of others that may come in between
_LONGEST_NAME = 255  # bytes, of a file system's names


class ParquetTarget(Target[ParquetConfig]):
    """A table `a.b` is the folder `a/b` of the URL; `log` says what lies in it, `reader` reads it."""

    def __init__(self, config: ParquetConfig):
        super().__init__(config)
        self.storage = open_storage(config.url, config)
        self._logs: dict[str, Log] = {}

    def check(self) -> None:
        """Writes and removes a file, and sees to it that a name can't be taken twice."""
        key = f"_headrace_check_{uuid.uuid4().hex}"
        try:
            if not self.storage.put_if_absent(key, b"1") or self.storage.put_if_absent(key, b"2"):
                raise ConfigError(
                    "parquet.no_conditional_put",
                    f"{self.storage.url} overwrites a file that was to be created once only",
                    field="url",
                    remedy="Use a store that honours conditional writes (If-None-Match).",
                )
        finally:
            self.storage.delete([key])

    def image(self, stream: Stream) -> pa.Schema:
        folder_of(stream)
        return image(stream.schema)

    def describe(self, stream: Stream) -> pa.Schema | None:
        newest = self._log(stream).newest()
        return newest.schema if newest and newest.schema.names else None  # a fence may be all there is

    def prepare(self, stream: Stream, mode: WriteMode) -> None:
        """Only looks: a new table or column appears with the first publish that has it."""
        schema = grown(self.describe(stream), [self.image(stream)])
        for name in self.config.partition_by:
            kind = schema.field(name).type if name in stream.schema.names else None
            if kind is None or pa.types.is_nested(kind) or pa.types.is_binary(kind):
                raise ConfigError(
                    "parquet.partition",
                    f"{stream.id} can't be partitioned by {name!r}: "
                    + ("there is no such column" if kind is None else f"it is of type {kind}"),
                    field="partition_by",
                    remedy="Name a column with a plain value, that each stream has.",
                )

    def open(self, stream: Stream, mode: WriteMode, slice: Slice) -> Writer:
        return SliceWriter(self.storage, folder_of(stream), self.config, stream)

    def publish(self, stream: Stream, mode: WriteMode, staged: Sequence[Staged], token: Token) -> None:
        log = self._log(stream)
        truncated = max((at for at, one in enumerate(staged) if one.truncates), default=0)
        files = tuple(File(**file) for one in staged[truncated:] for file in one.detail["files"])
        images = [Stream.from_json({**_NAMELESS, "schema": one.detail["schema"]}).schema for one in staged]
        for turn in range(_TRIES):
            last = log.newest()
            if not token.supersedes(last.tokens.get(token.pipeline) if last else None):
                return
            _check_staged(stream, staged, last)
            commit = Commit(
                token=token,
                mode=mode.value,
                files=files,
                replaces=mode is WriteMode.REPLACE or any(one.truncates for one in staged),
                schema=grown(last.schema if last else None, [*images, image(stream.schema)]),
            )
            if log.add(last, commit, self._keep):
                return
            time.sleep(random.uniform(0, 0.02 * (turn + 1)))
        raise TransientError(
            "parquet.busy",
            f"{_TRIES} commits of others came before ours into {stream.id}",
            remedy="Nothing to do: the next attempt publishes again. Fewer pipelines on one table help.",
        )

    def committed(self, stream: Stream, pipeline: str) -> Token | None:
        newest = self._log(stream).newest()
        return newest.tokens.get(pipeline) if newest else None

    def discard(self, stream: Stream, staged: Sequence[Staged]) -> None:
        folder = folder_of(stream)
        self.storage.delete(f"{folder}/{file['path']}" for one in staged for file in one.detail["files"])

    def wear(self, stream: Stream) -> Wear | None:
        return None if self.describe(stream) is None else Wear(table=stream.id)

    def maintain(self, wanted: Maintenance) -> Iterator[Maintained]:
        """Remove orphans. Nothing is compacted, and old rows go with the publish that replaces them."""
        return maintain(self.storage, wanted, self._keep)

    @property
    def _keep(self) -> timedelta:
        return timedelta(hours=self.config.keep_replaced_hours)

    def _log(self, stream: Stream) -> Log:
        folder = folder_of(stream)
        return self._logs.setdefault(folder, Log(self.storage, folder))


_NAMELESS = Stream(name="", schema=pa.schema([])).to_json()


def _check_staged(stream: Stream, staged: Sequence[Staged], last: Manifest | None) -> None:
    if last and any(one.detail["at"] < last.cleared for one in staged):
        raise StageLost(
            "parquet.stage_cleared",
            f"rows staged for {stream.id} waited so long that they may have been cleared away",
            remedy="Nothing to do: the rows are read again. Let orphans grow older than the longest load.",
        )


def folder_of(stream: Stream) -> str:
    """The folder of a stream's table, relative to the URL. Raises ConfigError for a name that is too long."""
    parts = [_folder_name(part) for part in (stream.namespace, stream.name) if part]
    if any(len(part) > _LONGEST_NAME for part in parts):
        raise ConfigError(
            "parquet.long_name",
            f"the name {stream.id} is too long for a folder",
            field="target",
            remedy="Give the stream another target table.",
        )
    return "/".join(parts)


def _folder_name(part: str) -> str:
    """Any name as a folder: what is no letter or digit is escaped, and so is what would hide it."""
    name = quote(part, safe="")
    return name if name[0] not in "._" else f"%{ord(name[0]):02X}{name[1:]}"
