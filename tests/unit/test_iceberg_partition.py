"""Partition transforms over whole columns agree with Iceberg's own, value by value."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyiceberg.types as ice
import pytest
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.transforms import (
    BucketTransform,
    DayTransform,
    HourTransform,
    IdentityTransform,
    MonthTransform,
    Transform,
    TruncateTransform,
    YearTransform,
)

from headrace.connectors.iceberg.partition import split

DICE = random.Random(1)
LONGS = [DICE.getrandbits(64) - 2**63 for _ in range(300)] + [0, -1, 1, None]
INTS = [None if n is None else n >> 33 for n in LONGS]
MICROS = [-62_135_596_800_000_000, -1, 0, 1, 1_700_000_000_000_001, None]
DAYS = [-719_162, -1, 0, 1, 19_000, None]

CASES: list[tuple[ice.PrimitiveType, pa.DataType, list[Any], list[Transform[Any, Any]]]] = [
    (ice.LongType(), pa.int64(), LONGS, [BucketTransform(16), BucketTransform(7), TruncateTransform(10)]),
    (ice.IntegerType(), pa.int32(), INTS, [BucketTransform(5), TruncateTransform(3)]),
    (ice.TimestampType(), pa.timestamp("us"), LONGS, [BucketTransform(16)]),
    (ice.DateType(), pa.date32(), INTS, [BucketTransform(16)]),
    (
        ice.TimestamptzType(),
        pa.timestamp("us", "UTC"),
        MICROS,
        [YearTransform(), MonthTransform(), DayTransform(), HourTransform(), IdentityTransform()],
    ),
    (
        ice.DateType(),
        pa.date32(),
        DAYS,
        [YearTransform(), MonthTransform(), DayTransform(), IdentityTransform()],
    ),
    (
        ice.StringType(),
        pa.large_string(),
        ["é" * 5, "", "x", None],
        [BucketTransform(16), TruncateTransform(2), IdentityTransform()],
    ),
    (ice.BinaryType(), pa.large_binary(), [b"abc", b"", None], [BucketTransform(16), TruncateTransform(2)]),
    (
        ice.DecimalType(10, 2),
        pa.decimal128(10, 2),
        [Decimal("-1.55"), Decimal("100.00"), None],
        [BucketTransform(16), TruncateTransform(10), IdentityTransform()],
    ),
    (ice.BooleanType(), pa.bool_(), [True, False, None], [IdentityTransform()]),
]


@pytest.mark.parametrize(
    ("kind", "arrow", "values", "transform"),
    [
        pytest.param(kind, arrow, values, transform, id=f"{kind}-{transform}")
        for kind, arrow, values, transforms in CASES
        for transform in transforms
    ],
)
def test_every_row_comes_out_once_and_in_the_partition_of_its_value(
    kind: ice.PrimitiveType, arrow: pa.DataType, values: list[Any], transform: Transform[Any, Any]
) -> None:
    if arrow in (pa.date32(), pa.timestamp("us"), pa.timestamp("us", "UTC")):
        column = pa.array(values, pa.int32() if arrow == pa.date32() else pa.int64()).cast(arrow)
    else:
        column = pa.array(values, arrow)
    spec = PartitionSpec(PartitionField(1, 1000, transform, "p"))
    rows = pa.table({"v": column, "at": np.arange(len(values))})
    expected = transform.transform(kind)
    seen = []
    for (value,), part in split(rows, spec, Schema(ice.NestedField(1, "v", kind))):
        at = part["at"].to_pylist()
        assert at == sorted(at)
        assert {expected(values[n]) for n in at} == {value}
        seen += at
    assert sorted(seen) == list(range(len(values)))
