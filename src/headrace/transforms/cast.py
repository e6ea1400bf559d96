"""Changes the types of columns; a row with a value that does not fit is rejected, never bent."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import field_validator

from headrace.connector import Batch, Config, Reject, Transform, TransformSpec, keep, setting
from headrace.errors import ConfigError
from headrace.transforms.columns import column_at, with_columns

TYPES = {
    "integer": pa.int32(),
    "bigint": pa.int64(),
    "double": pa.float64(),
    "text": pa.string(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us"),
    "timestamptz": pa.timestamp("us", "UTC"),
    "boolean": pa.bool_(),
}
_DECIMAL = re.compile(r"decimal\(\s*(\d{1,2})\s*(?:,\s*(\d{1,2})\s*)?\)")


class CastConfig(Config):
    columns: dict[str, str] = setting(
        f"The type of each column, by its name: {', '.join(TYPES)} or decimal(precision, scale).",
        min_length=1,
        examples=[{"amount": "decimal(12,2)"}],
    )

    @field_validator("columns")
    @classmethod
    def _known_types(cls, columns: dict[str, str]) -> dict[str, str]:
        for name, type in columns.items():
            try:
                _arrow_type(type)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        return columns


def make(config: CastConfig) -> Transform:
    """What is cast keeps its value: digits that a type has no room for reject the row.

    The exceptions are a double that becomes a decimal, which is rounded to the scale, and a time that
    becomes a date. A whole number past 2**53 does not become a double, even where it could. Text is
    read as ISO 8601; to be a timestamptz it must name its offset, to be a timestamp it must not. A
    timestamptz becomes a timestamp in UTC, and the reverse. A whole number that becomes a time counts
    microseconds since 1970.
    """
    types = {name: _arrow_type(type) for name, type in config.columns.items()}

    def cast(batch: Batch) -> Batch:
        columns: dict[int, pa.Array] = {}
        bad: dict[int, str] = {}
        for name, type in types.items():
            at = column_at(batch, name)
            try:
                columns[at], failed = _cast_column(batch.rows.column(at), type)
            except pa.ArrowNotImplementedError:
                raise ConfigError(
                    "cast.type",
                    f"the column {name!r} of {batch.stream} is of type {batch.rows.column(at).type}, "
                    f"which can't become {config.columns[name]}",
                    field="columns",
                    remedy="Cast it to text, or leave it as it is.",
                ) from None
            for row in failed:
                bad.setdefault(row, name)
        rows = with_columns(batch.rows, columns)
        if not bad:
            return replace(batch, rows=rows)
        rejects = tuple(_reject(batch, row, bad[row], config.columns[bad[row]]) for row in sorted(bad))
        mask = np.ones(rows.num_rows, bool)
        mask[list(bad)] = False
        return replace(keep(batch, pa.array(mask), rows), rejects=batch.rejects + rejects)

    return cast


def _arrow_type(text: str) -> pa.DataType:
    if text in TYPES:
        return TYPES[text]
    match = _DECIMAL.fullmatch(text)
    if match:
        precision, scale = int(match[1]), int(match[2] or 0)
        if 1 <= precision <= 38 and scale <= precision:
            return pa.decimal128(precision, scale)
    raise ValueError(f"{text!r} is not one of {', '.join(TYPES)}, decimal(1 to 38, scale)")


def _cast_column(values: pa.Array, type: pa.DataType) -> tuple[pa.Array, list[int]]:
    """The column in its new type, null where a value does not fit, and the rows where that is so."""
    pieces: list[pa.Array] = []
    failed: list[int] = []
    done = 0
    for piece in _pieces(values, type):
        if piece is None:
            failed.append(done)
        pieces.append(pa.nulls(1, type) if piece is None else piece)
        done += len(pieces[-1])
    return pa.concat_arrays(pieces) if len(pieces) != 1 else pieces[0], failed


def _pieces(values: pa.Array, type: pa.DataType) -> Iterator[pa.Array | None]:
    """Casts all at once; where that fails, each half, down to the single value that does not fit (None)."""
    try:
        yield _cast(values, type)
    except pa.ArrowInvalid:
        if len(values) == 1:
            yield None
            return
        middle = len(values) // 2
        yield from _pieces(values[:middle], type)
        yield from _pieces(values[middle:], type)


def _cast(values: pa.Array, type: pa.DataType) -> pa.Array:
    if pa.types.is_decimal(type) and pa.types.is_integer(values.type):
        # Arrow refuses by the widest integer there could be, not by those that are there.
        values = values.cast(pa.decimal256(76, type.scale))
    return values.cast(type)


def _reject(batch: Batch, at: int, column: str, type: str) -> Reject:
    row = {name: _plain(values[0]) for name, values in batch.rows.slice(at, 1).to_pydict().items()}
    content = json.dumps(row, sort_keys=True, ensure_ascii=False)
    return Reject(
        stream=batch.stream,
        code="cast.value",
        reason=f"the value in column {column!r} does not fit {type}",
        where={"column": column, "row": hashlib.sha256(content.encode()).hexdigest()},
        row=row,
    )


def _plain(value: Any) -> Any:
    """A value as JSON has it; what JSON does not know becomes text."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case bytes():
            return value.hex()
        case list() | tuple():
            return [_plain(item) for item in value]
        case dict():
            return {str(name): _plain(item) for name, item in value.items()}
        case _:
            return str(value)


SPEC = TransformSpec(name="cast", title="Cast columns", config=CastConfig, make=make)
