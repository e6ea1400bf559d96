"""Parquet encoding alone: `encode.py ARROW_FILE FILE DICTIONARY_COLUMNS`. Prints the seconds of writing."""

import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq

arrow, file, few = sys.argv[1:]
rows = pa.ipc.open_file(pa.OSFile(arrow)).read_all()
began = time.perf_counter()
with pq.ParquetWriter(
    file, rows.schema, compression="zstd", compression_level=1, use_dictionary=few.split(",")
) as writer:
    writer.write_table(rows, row_group_size=250_000)
print(time.perf_counter() - began)
