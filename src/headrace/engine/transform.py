"""Apply a pipeline's transforms to the batches of one stream, and shape them as they shall land."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from headrace.connector import Batch, Change, Event, SchemaChange, Transform
from headrace.model.pipeline import TransformStep

CHANGE_COLUMN = "_change"
"""In append mode, where a change log is written row by row, it says what each row was."""

_NAMES = pa.array([change.name.lower() for change in Change])

MakeTransform = Callable[[str, Mapping[str, Any]], Transform]


def steps_for(steps: Iterable[TransformStep], stream: str) -> tuple[TransformStep, ...]:
    """The transforms that a pipeline applies to `stream`, in order."""
    return tuple(
        step
        for step in steps
        if any(stream == pattern or fnmatchcase(stream, pattern) for pattern in step.streams)
    )


def apply(transforms: Sequence[Transform], batch: Batch) -> Batch:
    """The batch after all transforms; rejects and skip counts gather on it."""
    for transform in transforms:
        batch = transform(batch)
    return batch


def landing_schema(transforms: Sequence[Transform], stream: str, schema: pa.Schema) -> pa.Schema:
    """The schema that rows of `schema` have after all transforms, found with a batch of no rows."""
    empty = pa.RecordBatch.from_arrays([pa.array([], f.type) for f in schema], schema=schema)
    return apply(transforms, Batch(stream, empty)).rows.schema


def name_changes(batch: Batch) -> Batch:
    """What happened to each row becomes a column, and every row an insert."""
    if batch.changes is None:
        names = pa.repeat(pa.scalar("insert"), batch.rows.num_rows)
    else:
        names = _NAMES.take(batch.changes)
    rows = batch.rows.append_column(CHANGE_COLUMN, names)
    return Batch(batch.stream, rows, None, None, batch.rejects, batch.skipped)


def conform(batch: Batch, schema: pa.Schema) -> Batch:
    """The batch with exactly the columns of `schema`: others are left out, missing ones are null."""
    rows = batch.rows
    if rows.schema.equals(schema):
        return batch
    columns = []
    for field in schema:
        at = rows.schema.get_field_index(field.name)
        column = pa.nulls(rows.num_rows, field.type) if at < 0 else rows.column(at)
        columns.append(column if column.type == field.type else pc.cast(column, field.type))
    return Batch(
        batch.stream,
        pa.RecordBatch.from_arrays(columns, schema=schema),
        batch.changes,
        batch.unchanged and {name: cells for name, cells in batch.unchanged.items() if name in schema.names},
        batch.rejects,
        batch.skipped,
    )


def transform(event: Event, chains: Mapping[str, Sequence[Transform]]) -> Event:
    """A batch, or the schema of those to come, after the transforms of its stream."""
    match event:
        case Batch(stream=stream) if stream in chains:
            return apply(chains[stream], event)
        case SchemaChange(stream, schema) if stream in chains:
            return SchemaChange(stream, landing_schema(chains[stream], stream, schema))
    return event
