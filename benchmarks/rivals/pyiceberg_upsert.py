"""pyiceberg alone: `pyiceberg_upsert.py FOLDER ROWS CHANGES BATCHES`.

Upserts batches, two thirds updates and one third inserts since it knows no deletes, of keys spread at random
over a table of ROWS rows. Prints the seconds of each as JSON.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.schema import Schema
from pyiceberg.types import (
    DecimalType,
    DoubleType,
    IntegerType,
    LongType,
    NestedField,
    StringType,
    TimestampType,
)

PIECE = 1_000_000
LONG = 60.0  # seconds: no further batch after one that took longer
TYPES = {
    "id": LongType(), "at": TimestampType(), "place": IntegerType(), "fare": DecimalType(12, 2),
    "distance": DoubleType(), "note": StringType(),
}  # fmt: skip
SCHEMA = Schema(
    *(
        NestedField(number, name, kind, required=name == "id")
        for number, (name, kind) in enumerate(TYPES.items(), 1)
    ),
    identifier_field_ids=[1],
)


def rows(ids: np.ndarray, salt: int) -> pa.Table:
    noise = np.random.default_rng(salt).integers(0, 1 << 30, len(ids))
    columns = {
        "id": pa.array(ids),
        "at": pa.array(noise * 1_000_000, pa.timestamp("us")),
        "place": pa.array((noise % 265).astype(np.int32)),
        "fare": pa.array((noise % 10_000).astype(np.int32)).cast(pa.decimal128(12, 2)),
        "distance": pa.array(noise / 7.0),
        "note": pa.array(np.char.add("note ", (noise % 1_000_003).astype(str))),
    }
    fields = [pa.field(name, column.type, nullable=name != "id") for name, column in columns.items()]
    return pa.table(list(columns.values()), schema=pa.schema(fields))


lake = Path(sys.argv[1])
size, changes, batches = map(int, sys.argv[2:])
lake.mkdir()
catalog = SqlCatalog("lake", uri=f"sqlite:///{lake}/catalog.db", warehouse=lake.as_uri())
catalog.create_namespace("bench")
properties = {"write.parquet.compression-codec": "zstd", "write.parquet.compression-level": "1"}
table = catalog.create_table("bench.trips", SCHEMA, properties=properties)
for first in range(0, size, PIECE):
    table.append(rows(np.arange(first, min(first + PIECE, size)), first))
dice, top, seconds = np.random.default_rng(size), size, []
for number in range(batches):
    updated = dice.choice(size, changes * 2 // 3, replace=False)
    ids = np.concatenate([updated, np.arange(top, top + changes - len(updated))])
    top += changes - len(updated)
    batch = rows(ids, number)
    began = time.perf_counter()
    table.upsert(batch)
    seconds.append(round(time.perf_counter() - began, 3))
    if seconds[-1] > LONG:
        break
found = sum(part.num_rows for part in table.scan(selected_fields=("id",)).to_arrow_batch_reader())
print(json.dumps({"seconds": seconds, "missing": top - found}))
