"""Gathers what a pass over a whole file finds: columns, types, samples, the first rows."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from headrace.connector.files import values
from headrace.connector.files.part import Part
from headrace.model.file import FileColumn, FileProfile

PREVIEW_ROWS = 1000
SAMPLES = 3
_SAMPLE = 200  # characters
_LOOKED_AT = 2000  # rows of a part in which samples are looked for
_NESTED = 20
_PREVIEW = 2 << 20  # characters
_CELL = 2000  # characters of a text in the preview


class Profiler:
    """Takes the parts of a file in order. `schema` is what their rows have."""

    def __init__(self, schema: pa.Schema):
        self.schema = schema
        self.rows = 0
        self._nullable = [False] * len(schema)
        self._samples: list[dict[str, None]] = [{} for _ in schema]
        self.preview: list[str] = []
        self.firsts: list[pa.RecordBatch] = []

    def add(self, part: Part) -> None:
        """Count the part's rows, and look at their values."""
        rows = part.rows
        self.rows += rows.num_rows + len(part.errors)
        kept = sum(batch.num_rows for batch in self.firsts)
        if kept < PREVIEW_ROWS and rows.num_rows:
            self.firsts.append(rows[: PREVIEW_ROWS - kept])
        for at, column in enumerate(rows.columns):
            if column.null_count:
                self._nullable[at] = True
            if len(self._samples[at]) < SAMPLES:
                self._sample(self._samples[at], column[:_LOOKED_AT])

    def nulls(self, at: int) -> None:
        """The column has values that its final type takes for null."""
        self._nullable[at] = True

    def _sample(self, found: dict[str, None], column: pa.Array) -> None:
        present = pc.drop_null(column)
        if pa.types.is_nested(column.type):
            present = present[:_NESTED]
        else:
            present = pc.unique(present)
        for value in present.to_pylist():
            if value == "":
                continue
            found.setdefault(sample(value)[:_SAMPLE])
            if len(found) == SAMPLES:
                return

    def finish(
        self,
        schema: pa.Schema,
        firsts: Iterable[pa.RecordBatch],
        *,
        kinds: Mapping[str, str] | None = None,
        **rest: Any,
    ) -> FileProfile:
        """`schema` has the final types, in which `firsts` are; `kinds` are types by another word."""
        columns = tuple(
            FileColumn(
                name=field.name,
                type=(kinds or {}).get(field.name) or kind(field.type),
                nullable=self._nullable[at],
                samples=tuple(self._samples[at]),
            )
            for at, field in enumerate(schema)
        )
        packed = base64.b64encode(schema.serialize().to_pybytes()).decode()
        return FileProfile(
            columns=columns, rows=self.rows, preview=tuple(_shown(firsts)), schema=packed, **rest
        )


def _shown(firsts: Iterable[pa.RecordBatch]) -> Iterator[str]:
    """The first rows as JSON, as many as have room."""
    size = 0
    for batch in firsts:
        for row in batch.to_pylist():
            text = row_json(row)
            size += len(text)
            if size > _PREVIEW and size > len(text):
                return
            yield text


def unpack_schema(profile: FileProfile) -> pa.Schema:
    """The Arrow schema of a file's columns."""
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(profile.schema)))


def kind(type: pa.DataType) -> str:
    """The type by the word that people see."""
    for test, word in _KINDS:
        if test(type):
            return word
    return "TIMESTAMP_TZ" if pa.types.is_timestamp(type) and type.tz else _BY_ID.get(type.id, "JSON")


_KINDS = (
    (pa.types.is_boolean, "BOOLEAN"),
    (pa.types.is_integer, "INTEGER"),
    (pa.types.is_decimal, "DECIMAL"),
    (pa.types.is_floating, "DOUBLE"),
    (pa.types.is_date, "DATE"),
    (pa.types.is_time, "TIME"),
    (pa.types.is_string, "STRING"),
    (pa.types.is_null, "STRING"),
    (pa.types.is_binary, "BINARY"),
    (pa.types.is_fixed_size_binary, "BINARY"),
)
_BY_ID = {pa.timestamp("us").id: "TIMESTAMP"}

TYPES = (
    "BOOLEAN", "INTEGER", "DECIMAL", "DOUBLE", "DATE", "TIMESTAMP", "TIMESTAMP_TZ", "TIME", "STRING",
)  # fmt: skip
"""The types that a person may choose for a column."""


def chosen_type(text: str, found: pa.DataType) -> pa.DataType:
    """The Arrow type for a word of `TYPES`, or DECIMAL(precision,scale). Raises ConfigError.

    A DECIMAL without a scale has that of the type found, else 9 digits after the point.
    """
    if text.strip().upper() == "DECIMAL":
        return found if pa.types.is_decimal(found) else pa.decimal128(values.MAX_DIGITS, 9)
    return values.named_type(text)


def sample(value: Any) -> str:
    """A value as a text of the source."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime | date | time):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, bytes):
        return value.hex()
    return cell_json(value) if isinstance(value, Mapping | list | tuple) else str(value)


def row_json(row: Mapping[str, Any]) -> str:
    """A row as JSON text, long texts cut."""
    cells = (
        f"{json.dumps(name, ensure_ascii=False)}: {_cut(cell_json(value))}" for name, value in row.items()
    )
    return "{" + ", ".join(cells) + "}"


def _cut(text: str) -> str:
    """A nested value that is too long becomes a text."""
    return text if len(text) <= 2 * _CELL + 2 else json.dumps(text[:_CELL], ensure_ascii=False)


def cell_json(value: Any) -> str:
    """JSON text of a value: decimals as numbers with all digits, what is no number in JSON as text."""
    if value is None or isinstance(value, bool | int):
        return json.dumps(value)
    if isinstance(value, float):
        return json.dumps(value) if math.isfinite(value) else json.dumps(str(value))
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, Mapping):
        return row_json(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(cell_json, value)) + "]"
    return json.dumps(sample(value)[:_CELL], ensure_ascii=False)
