"""pyiceberg alone: `pyiceberg_csv.py FILE FOLDER`. Prints the seconds of reading and appending."""

import sys
import time
from pathlib import Path

import pyarrow.csv
from pyiceberg.catalog.sql import SqlCatalog

file, folder = sys.argv[1:]
lake = Path(folder)
lake.mkdir()
catalog = SqlCatalog("lake", uri=f"sqlite:///{lake}/catalog.db", warehouse=lake.as_uri())
catalog.create_namespace("copied")
began = time.perf_counter()
options = pyarrow.csv.ConvertOptions(strings_can_be_null=True)
rows = pyarrow.csv.read_csv(file, convert_options=options)
properties = {"write.parquet.compression-codec": "zstd", "write.parquet.compression-level": "1"}
table = catalog.create_table("copied.trips", rows.schema, properties=properties)
table.append(rows)
print(time.perf_counter() - began)
