"""A lake in a folder, with the short words that the Iceberg tests need."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.table import CommitTableResponse, Table

from headrace.connector import Batch, Change, Reject, Slice, Staged, Stream, Token, WriteMode
from headrace.connectors.iceberg.catalog import identifier, open_catalog
from headrace.connectors.iceberg.config import IcebergConfig
from headrace.connectors.iceberg.target import IcebergTarget
from servers.readers import read_with_duckdb, read_with_pyiceberg
from tests.integration.iceberg_sound import check_sound

SLICE = Slice(key="all", reads=())
Row = Mapping[str, Any]


def stream(name: str = "orders", key: Sequence[str] = ("id",), **columns: pa.DataType) -> Stream:
    schema = pa.schema(list((columns or {"id": pa.int64(), "note": pa.string()}).items()))
    return Stream(name=name, namespace="public", schema=schema, primary_key=tuple(key))


class Lake:
    """A target on a folder. `load` writes and publishes in one go, as the engine would."""

    def __init__(self, folder: Any, **settings: Any):
        self.settings = settings
        self.config = IcebergConfig.parse({"warehouse": str(folder), **settings})
        self.target = IcebergTarget(self.config)
        self.rejects: list[Reject] = []
        self._sequence = 0

    def token(self, sequence: int, epoch: int = 1, pipeline: str = "p") -> Token:
        return Token(pipeline=pipeline, epoch=epoch, sequence=sequence, position={"at": sequence})

    def stage(
        self, of: Stream, mode: WriteMode, rows: Sequence[Row], changes: Sequence[Change] | None = None
    ) -> Staged:
        self.target.prepare(of, mode)
        batch = Batch.of(of, rows)
        if changes is not None:
            batch = Batch(batch.stream, batch.rows, pa.array([int(c) for c in changes], pa.int8()))
        return self.stage_batches(of, mode, [batch])

    def stage_batches(self, of: Stream, mode: WriteMode, batches: Sequence[Batch]) -> Staged:
        writer = self.target.open(of, mode, SLICE)
        try:
            for batch in batches:
                self.rejects += writer.write(batch)
            staged = writer.stage()
        finally:
            writer.close()
        return Staged.from_json(json.loads(json.dumps(staged.to_json())))

    def publish(self, of: Stream, mode: WriteMode, *staged: Staged) -> None:
        self._sequence += 1
        self.target.publish(of, mode, staged, self.token(self._sequence))

    def load(
        self, of: Stream, mode: WriteMode, rows: Sequence[Row], changes: Sequence[Change] | None = None
    ) -> None:
        self.publish(of, mode, self.stage(of, mode, rows, changes))

    def table(self, of: Stream) -> Table:
        """The table as a foreign catalogue object sees it."""
        catalog = open_catalog(self.config)
        try:
            return catalog.load_table(identifier(self.config, of))
        finally:
            catalog.close()

    def rows(self, of: Stream) -> list[dict[str, Any]]:
        """What pyiceberg reads, sorted; DuckDB must read as much, and the snapshot be sound."""
        table = self.table(of)
        check_sound(table)
        location = table.metadata_location
        found = rows(read_with_pyiceberg(location))
        assert rows(read_with_duckdb(location)) == found
        return found

    def foreign(self) -> SqlCatalog:
        """Another writer's catalogue; the test closes it."""
        catalog = open_catalog(self.config)
        assert isinstance(catalog, SqlCatalog)
        return catalog


def rows(table: pa.Table) -> list[dict[str, Any]]:
    return sorted(table.to_pylist(), key=repr)


class Interfered(SqlCatalog):
    """A real catalogue in which something happens before or after one commit to a table."""

    before: Callable[[], None] | None = None
    after: Callable[[], None] | None = None

    def commit_table(self, *args: Any, **kwargs: Any) -> CommitTableResponse:
        before, self.before = self.before, None
        if before:
            before()
        done = super().commit_table(*args, **kwargs)
        after, self.after = self.after, None
        if after:
            after()
        return done


def interfere(
    lake: Lake, before: Callable[[], None] | None = None, after: Callable[[], None] | None = None
) -> Interfered:
    with_properties = open_catalog(lake.config)
    catalog = Interfered(with_properties.name, **with_properties.properties)
    with_properties.close()
    catalog.before, catalog.after = before, after
    lake.target.close()
    lake.target._opened = catalog
    return catalog
