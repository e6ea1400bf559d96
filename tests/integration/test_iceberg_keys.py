"""Keys of every type that Iceberg has: equal ones are one key, however spelled and wherever they lie."""

from __future__ import annotations

import datetime as dt
import decimal
import random
import struct
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from headrace.connector import Change, Maintenance, WriteMode
from servers.readers import read_with_duckdb, read_with_pyiceberg
from tests.integration.iceberg_lake import Lake, stream
from tests.integration.iceberg_sound import check_sound

UPSERT = WriteMode.UPSERT
UPD, DEL = Change.UPDATE, Change.DELETE
NAN = float("nan")
OTHER_NAN = struct.unpack("<d", struct.pack("<Q", 0xFFF8000000000123))[0]


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    lake = Lake(tmp_path / "lake")
    yield lake
    lake.target.close()


def both(lake: Lake, of: Any) -> list[list[dict[str, Any]]]:
    """What pyiceberg reads, and DuckDB."""
    table = lake.table(of)
    check_sound(table)
    return [read(table.metadata_location).to_pylist() for read in (read_with_pyiceberg, read_with_duckdb)]


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64()])
@pytest.mark.parametrize("others", [False, True])
def test_zero_has_one_sign_and_not_a_number_is_one_key(lake: Lake, kind: pa.DataType, others: bool) -> None:
    of = stream("floats", ("k", "n") if others else ("k",), k=kind, n=pa.int64(), v=pa.string())

    def rows(v: str, *keys: float) -> list[dict[str, Any]]:
        return [{"k": key, "n": 1, "v": v} for key in keys]

    def found() -> list[tuple[str, str]]:
        by_one, by_another = (
            sorted((str(row["k"] + 0.0), row["v"]) for row in rows) for rows in both(lake, of)
        )
        assert by_one == by_another
        return by_one

    lake.load(of, UPSERT, [*rows("first", 0.0, NAN, 1.5), *rows("second", -0.0, OTHER_NAN)])
    assert found() == [("0.0", "second"), ("1.5", "first"), ("nan", "second")]
    one = lake.stage(of, UPSERT, rows("third", 0.0, NAN))
    two = lake.stage(of, UPSERT, rows("fourth", -0.0, OTHER_NAN))
    lake.publish(of, UPSERT, one, two)
    assert found() == [("0.0", "fourth"), ("1.5", "first"), ("nan", "fourth")]
    lake.load(of, UPSERT, rows("", 0.0, NAN), [DEL, DEL])
    assert found() == [("1.5", "first")]


def texts(n: int) -> str:
    return ["", "\0", "a" * 16, "a" * 16 + "b", "a" * 15 + "é", "é" * 16, "\U0001f600" * 17, "zz", "A", "ａ"][
        n % 10
    ] + ("" if n < 10 else str(n // 10))


TYPES: dict[str, tuple[pa.DataType, Callable[[int], Any]]] = {
    "boolean": (pa.bool_(), lambda n: n % 2 == 1),
    "int": (pa.int32(), lambda n: n * 1_000_003 % 2**32 - 2**31),
    "long": (pa.int64(), lambda n: n * 6_364_136_223_846_793_005 % 2**64 - 2**63),
    "float": (pa.float32(), lambda n: (n - 10) / 4),
    "double": (pa.float64(), lambda n: (n - 10) * 1e300 / 3),
    "decimal": (pa.decimal128(12, 3), lambda n: decimal.Decimal(n * 7919 - 90_000).scaleb(-3)),
    "wide decimal": (pa.decimal128(38, 10), lambda n: decimal.Decimal(f"{(n - 10) * 10**17}.0000000000")),
    "date": (pa.date32(), lambda n: dt.date(1960, 1, 1) + dt.timedelta(days=n * 400)),
    "time": (pa.time64("us"), lambda n: dt.time(n % 24, 59, 59, n)),
    "timestamp": (pa.timestamp("us"), lambda n: dt.datetime(1969, 12, 31, 23, 59, 59, n)),
    "timestamptz": (
        pa.timestamp("us", "UTC"),
        lambda n: dt.datetime(1900 + n * 9, 1, 1, tzinfo=dt.UTC),
    ),
    "string": (pa.string(), texts),
    "uuid": (pa.uuid(), lambda n: uuid.UUID(int=(n << 120) | n)),
    "fixed": (pa.binary(4), lambda n: (n * 2**27).to_bytes(4, "big")),
    "binary": (
        pa.binary(),
        lambda n: [b"", b"\0", b"\xff" * 16, b"\xff" * 17, b"\xff" * 15][n % 5] * (1 + n // 5),
    ),
}


@pytest.mark.parametrize(("beside", "partition"), [(False, ""), (True, "bucket(3, k)")])
@pytest.mark.parametrize("kind", TYPES)
def test_a_random_history_by_a_key_of_any_type_ends_as_a_dict_does(
    tmp_path: Path, kind: str, beside: bool, partition: str
) -> None:
    column, value = TYPES[kind]
    if partition and kind in ("boolean", "float", "double"):
        partition = "identity(k)" if kind == "boolean" else "bucket(3, note)"
    spec = {"public.things": [partition]} if partition else {}
    lake = Lake(tmp_path / "lake", partition_spec=spec)
    key = ("region", "k") if beside else ("k",)
    of = stream("things", key, k=column, region=pa.string(), note=pa.string())
    dice = random.Random(kind)
    state: dict[tuple[Any, str], str] = {}
    for step in range(5):
        staged = []
        for piece in range(dice.randint(1, 3)):
            rows, changes = [], []
            for _ in range(dice.randint(1, 14)):
                at, region = value(dice.randrange(20)), dice.choice(["eu", "us"]) if beside else "eu"
                gone, note = dice.random() < 0.3, f"{step}.{piece}.{dice.random()}"
                rows.append({"k": at, "region": region, "note": None if gone else note})
                changes.append(DEL if gone else UPD)
                state.pop((at, region), None)
                if not gone:
                    state[at, region] = note
            staged.append(lake.stage(of, UPSERT, rows, changes))
        lake.publish(of, UPSERT, *staged)
        if step == 3:
            done = list(lake.target.maintain(Maintenance(min_files=2, expire=False, orphans=False)))
            assert [one.error for one in done] == [None]
    assert lake.rejects == []
    for rows in both(lake, of):
        assert len(rows) == len(state)
        assert {(str(row["k"]), row["region"]): row["note"] for row in rows} == {
            (str(at), region): note for (at, region), note in state.items()
        }
    lake.target.close()
