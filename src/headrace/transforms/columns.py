"""Finds and replaces the columns that a transform names."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

import pyarrow as pa

from headrace.errors import ConfigError
from headrace.model.event import Batch


def column_at(batch: Batch, name: str) -> int:
    """The place of a column. Raises ConfigError if the stream has none of that name, or several."""
    names: list[str] = batch.rows.schema.names
    if names.count(name) == 1:
        return names.index(name)
    near = difflib.get_close_matches(name, names, n=1)
    hint = (
        f"Did you mean {near[0]!r}?" if near and near[0] != name else f"Its columns are: {', '.join(names)}."
    )
    raise ConfigError(
        "transform.no_column",
        f"the stream {batch.stream} has no single column {name!r}",
        field="columns",
        remedy=f"{hint} A transform that is not for all streams names its own in 'streams'.",
    )


def with_columns(rows: pa.RecordBatch, columns: Mapping[int, pa.Array]) -> pa.RecordBatch:
    """The rows with the columns at these places replaced; names, nullability and metadata stay."""
    fields, arrays = list(rows.schema), list(rows.columns)
    for at, array in columns.items():
        fields[at], arrays[at] = fields[at].with_type(array.type), array
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields, rows.schema.metadata))
