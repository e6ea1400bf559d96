"""polars: `polars_load.py SOURCE FILE ROWS_OF_A_GROUP`. Prints the seconds of reading and writing."""

import sys
import time

import polars as pl

source, file, group = sys.argv[1:]
began = time.perf_counter()
rows = pl.read_database_uri("SELECT * FROM trips", source, engine="connectorx")
rows.write_parquet(file, compression="zstd", compression_level=1, row_group_size=int(group))
print(time.perf_counter() - began)
