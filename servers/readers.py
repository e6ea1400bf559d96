"""Two independent readers of an Iceberg table, each given nothing but its metadata file."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
from pyiceberg.table import StaticTable


def read_with_pyiceberg(metadata_location: str) -> pa.Table:
    """All rows, by pyiceberg."""
    return StaticTable.from_metadata(metadata_location).scan().to_arrow()


def read_with_duckdb(metadata_location: str) -> pa.Table:
    """All rows, by DuckDB; its extensions come from wheels, since it may not fetch any."""
    with duckdb_for_iceberg() as database:
        path = metadata_location.removeprefix("file://")
        return database.execute("SELECT * FROM iceberg_scan(?)", [path]).to_arrow_table()


@contextlib.contextmanager
def duckdb_for_iceberg() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(
        config={"autoinstall_known_extensions": False, "autoload_known_extensions": False}
    ) as database:
        for name in ("avro", "iceberg"):
            database.load_extension(str(_extension(name)))
        yield database


def _extension(name: str) -> Path:
    spec = importlib.util.find_spec(f"duckdb_extension_{name}")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"duckdb_extension_{name} is not installed: run `make setup`")
    return next(Path(spec.origin).parent.rglob(f"{name}.duckdb_extension"))
