"""Writes the rows of a data file anew, without those that are deleted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from pyiceberg.table import Table

from headrace.connectors.iceberg.keys import Numbers
from headrace.connectors.iceberg.live import LiveFile
from headrace.connectors.iceberg.write import DataFiles

Details = list[dict[str, Any]]


def rewrite(table: Table, files: Iterable[tuple[LiveFile, Numbers]], target_bytes: int) -> Details:
    """What of the files is not deleted, in new durable files; a batch at a time is held in memory.

    Each file comes with its deleted rows. After an error nothing is left behind.
    """
    out = DataFiles(table, target_bytes)
    try:
        for file, gone in files:
            for batch in _kept(file.scan(table, table.schema()), file.rows, gone):
                columns = [c.cast(f.type) for c, f in zip(batch.columns, out.arrow, strict=True)]
                out.write(pa.Table.from_arrays(columns, schema=out.arrow))
        return out.finish()
    except BaseException:
        out.abandon()
        raise


def _kept(batches: Iterable[pa.RecordBatch], rows: int, gone: Numbers) -> Iterator[pa.RecordBatch]:
    keep = np.ones(rows, bool)
    keep[gone] = False
    at = 0
    for batch in batches:
        mask = keep[at : at + batch.num_rows]
        at += batch.num_rows
        if mask.all():
            yield batch
        elif mask.any():
            yield batch.filter(pa.array(mask))
