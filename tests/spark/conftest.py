"""One Spark for the whole suite, and a lake that it shares with Headrace."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from headrace.connector import Stream
from servers.spark import CATALOG, SparkServer
from tests.conftest import start
from tests.integration.iceberg_lake import Lake, rows


class SharedLake(Lake):
    """A lake in a folder which Spark reads and writes as well, by its catalogue."""

    def __init__(self, spark: SparkServer, folder: Path, **settings: Any):
        super().__init__(folder, **settings)
        self.target.check()  # makes the catalogue, which Spark then finds as Headrace has made it
        self._session = spark.session(folder)

    def sql(self, statement: str, of: Stream) -> list[Any]:
        """Spark runs the statement, in which `{table}` is the stream's table; gives its rows."""
        return self._session.sql(statement.format(table=self._name(of), catalog=CATALOG)).collect()

    def call(self, procedure: str, of: Stream, *arguments: str) -> Any:
        """What one of Iceberg's procedures in Spark says that it did to the stream's table."""
        given = ", ".join([f"table => '{of.id}'", *arguments])
        (said,) = self._session.sql(f"CALL {CATALOG}.system.{procedure}({given})").collect()
        return said

    def seen(self, of: Stream) -> pa.Table:
        """The table as Spark reads it."""
        table: pa.Table = self._session.table(self._name(of)).toArrow()
        return table

    def rows(self, of: Stream) -> list[dict[str, Any]]:
        """What pyiceberg, DuckDB and Spark read, all the same, sorted."""
        found = super().rows(of)
        assert rows(self.seen(of)) == found
        return found

    def _name(self, of: Stream) -> str:
        return ".".join([CATALOG, *(f"`{part}`" for part in (of.namespace, of.name) if part)])


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkServer]:
    """Spark, once for the test process."""
    yield from start("spark", SparkServer)


@pytest.fixture
def lake(spark: SparkServer, tmp_path: Path) -> Iterator[SharedLake]:
    """An empty lake."""
    lake = SharedLake(spark, tmp_path / "lake")
    yield lake
    lake.target.close()
