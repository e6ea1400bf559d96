"""pyiceberg alone: `pyiceberg_load.py SOURCE FOLDER`. Prints the seconds of reading and appending."""

import sys
import time
from pathlib import Path

import connectorx
import pyarrow as pa
from pyiceberg.catalog.sql import SqlCatalog

source, folder = sys.argv[1:]
lake = Path(folder)
lake.mkdir()
catalog = SqlCatalog("lake", uri=f"sqlite:///{lake}/catalog.db", warehouse=lake.as_uri())
catalog.create_namespace("copied")
began = time.perf_counter()
rows = connectorx.read_sql(source, "SELECT * FROM trips", return_type="arrow", protocol="binary")
schema = pa.schema(
    field.with_type(pa.decimal128(12, 2)) if pa.types.is_decimal(field.type) else field
    for field in rows.schema
)
properties = {"write.parquet.compression-codec": "zstd", "write.parquet.compression-level": "1"}
table = catalog.create_table("copied.trips", schema, properties=properties)
table.append(rows.cast(schema))
print(time.perf_counter() - began)
