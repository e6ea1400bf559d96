"""Gives columns other names."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pyarrow as pa

from headrace.connector import Batch, Config, Transform, TransformSpec, setting
from headrace.errors import ConfigError
from headrace.transforms.columns import column_at


class RenameConfig(Config):
    columns: dict[str, str] = setting(
        "The new name of each column, by its old name.", min_length=1, examples=[{"id": "customer_id"}]
    )


def make(config: RenameConfig) -> Transform:
    def rename(batch: Batch) -> Batch:
        fields = list(batch.rows.schema)
        for old, new in config.columns.items():
            at = column_at(batch, old)
            fields[at] = fields[at].with_name(new)
        schema = pa.schema(fields, batch.rows.schema.metadata)
        twice = [name for name, times in Counter(schema.names).items() if times > 1]
        if twice:
            raise ConfigError(
                "rename.taken",
                f"the stream {batch.stream} would have two columns {twice[0]!r}",
                field="columns",
                remedy="Choose a name that no other column has, or rename that one too.",
            )
        unchanged = batch.unchanged
        if unchanged is not None:
            unchanged = {config.columns.get(name, name): cells for name, cells in unchanged.items()}
        rows = pa.RecordBatch.from_arrays(batch.rows.columns, schema=schema)
        return replace(batch, rows=rows, unchanged=unchanged)

    return rename


SPEC = TransformSpec(name="rename", title="Rename columns", config=RenameConfig, make=make)
