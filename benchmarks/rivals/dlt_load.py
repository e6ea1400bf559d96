"""dlt: one table of PostgreSQL into Parquet files, an Iceberg table or another PostgreSQL.

`dlt_load.py SOURCE parquet|iceberg|postgres TARGET replace|append`; other settings come from the environment.
Prints the seconds of `pipeline.run`.
"""

import os
import sys
import time

import dlt
from dlt.destinations import filesystem, postgres
from dlt.sources.sql_database import sql_table

source, kind, target, mode = sys.argv[1:]
table = sql_table(
    credentials=source.replace("postgresql://", "postgresql+psycopg://"),
    table="trips",
    schema="public",
    backend="connectorx",
    reflection_level="full_with_precision",
    chunk_size=250_000,
    backend_kwargs={"conn": source},
)
if kind == "postgres":  # or ADBC puts the 16 bits that connectorx reads into a column of 32
    table.apply_hints(columns={"riders": {"data_type": "bigint", "precision": 16}})
pipeline = dlt.pipeline(
    pipeline_name="trips",
    pipelines_dir=os.environ["DLT_PIPELINES"],
    destination=postgres(target) if kind == "postgres" else filesystem(target),
    dataset_name="copied_by_dlt",
)
began = time.perf_counter()
pipeline.run(
    table,
    write_disposition=mode,
    loader_file_format="parquet",
    table_format="iceberg" if kind == "iceberg" else None,
)
print(time.perf_counter() - began)
