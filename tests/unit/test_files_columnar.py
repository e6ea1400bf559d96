"""parquet: types from the footer, and one image for each of them."""

import io
from datetime import datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headrace.connector.files import columnar, values
from headrace.connector.files.part import RowError
from headrace.errors import DataError


def parquet(table: pa.Table, **options: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, **options)
    return out.getvalue()


def load(data: bytes, schema: pa.Schema | None = None) -> tuple[list[dict[str, Any]], list[RowError]]:
    schema = schema or columnar.inspect(io.BytesIO(data), "f", len(data)).schema
    rows, errors = [], []
    for part in columnar.read(io.BytesIO(data), "f", schema):
        assert part.rows.schema == schema
        part.rows.validate(full=True)
        rows += part.rows.to_pylist()
        errors += part.errors
    return rows, errors


def test_each_type_has_its_image() -> None:
    table = pa.table(
        {
            "u64": pa.array([2**64 - 1], pa.uint64()),
            "u8": pa.array([255], pa.uint8()),
            "ns": pa.array([1_700_000_000_123_456_789], pa.timestamp("ns")),
            "ms": pa.array([1_700_000_000_123], pa.timestamp("ms", "Europe/Berlin")),
            "t": pa.array([1], pa.time32("s")),
            "dict": pa.array(["x"]).dictionary_encode(),
            "big": pa.array([Decimal("1.10")], pa.decimal256(50, 2)),
            "nested": pa.array([[{"a": 1, "b": [None, "x"]}]]),
            "large": pa.array(["y"], pa.large_string()),
        }
    )
    data = parquet(table)
    assert columnar.inspect(io.BytesIO(data), "f", len(data)).schema.types == [
        pa.decimal128(20, 0),
        pa.int16(),
        values.TIMESTAMP,
        values.TIMESTAMP_TZ,
        values.TIME,
        pa.string(),
        pa.string(),
        pa.list_(pa.struct([("a", pa.int64()), ("b", pa.list_(pa.string()))])),
        pa.string(),
    ]
    (row,), errors = load(data)
    assert errors == []
    assert row["u64"] == Decimal(2**64 - 1)
    assert row["ns"] == datetime(2023, 11, 14, 22, 13, 20, 123456)
    assert row["big"] == "1.10"
    assert row["nested"] == [{"a": 1, "b": [None, "x"]}]


def test_columns_are_found_by_name_and_missing_ones_are_null() -> None:
    data = parquet(pa.table({"a": [1, 2], "a.b": ["x", "y"], "c": [0, 0]}))
    schema = pa.schema([("z", pa.int64()), ("a.b", pa.string()), ("a", pa.int64())])
    assert load(data, schema)[0] == [{"z": None, "a.b": "x", "a": 1}, {"z": None, "a.b": "y", "a": 2}]
    assert load(data, pa.schema([("z", pa.int64())]))[0] == [{"z": None}] * 2


def test_a_value_that_does_not_fit_rejects_its_row_by_number() -> None:
    data = parquet(pa.table({"a": ["1", "x", "3", "y"]}), row_group_size=2)
    rows, errors = load(data, pa.schema([("a", pa.int64())]))
    assert [r["a"] for r in rows] == [1, 3]
    assert [(e.line, e.code, e.row) for e in errors] == [
        (2, "TYPE_MISMATCH", {"a": "x"}),
        (4, "TYPE_MISMATCH", {"a": "y"}),
    ]


def test_an_empty_table_has_columns_and_no_rows() -> None:
    assert load(parquet(pa.table({"a": pa.array([], pa.int64())}))) == ([], [])


def test_a_damaged_file_is_a_named_stop() -> None:
    data = parquet(pa.table({"a": list(range(10_000))}), compression="zstd", write_page_checksum=True)
    for broken in (data[:-10], b"PAR1" + data[4:-8] + b"\xff\xff\xff\x7fPAR1", b"not parquet", b""):
        with pytest.raises(DataError) as caught:
            load(broken)
        assert caught.value.code == "files.corrupt"
    flipped = data[:100] + bytes(200) + data[300:]
    with pytest.raises(DataError):
        load(flipped)
