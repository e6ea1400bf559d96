"""Rows of json become columns: the types of their values, and each value as its column's type or a reject."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from decimal import Context, Decimal, Inexact, InvalidOperation
from types import NoneType
from typing import Any

import pyarrow as pa

from headrace.connector.files import values
from headrace.connector.files.objects import ABSENT, TOO_DEEP, Exponent, Row
from headrace.connector.files.part import Part, RowError, shorten

_WRITTEN = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")

_NATURAL: Mapping[int, frozenset[Any]] = {
    pa.string().id: frozenset({str, NoneType}),
    pa.bool_().id: frozenset({bool, NoneType}),
    pa.int64().id: frozenset({int, NoneType}),
    pa.float64().id: frozenset({Exponent, NoneType}),
    pa.decimal128(38, 0).id: frozenset({int, Decimal, NoneType}),
}


def type_of(value: Any) -> pa.DataType:
    if value is None:
        return pa.null()
    if isinstance(value, bool):
        return pa.bool_()
    if isinstance(value, int):
        return pa.int64() if -(2**63) <= value < 2**63 else _decimal_type(Decimal(value))
    if isinstance(value, float):
        return pa.float64()
    if isinstance(value, Decimal):
        return _decimal_type(value)
    return pa.string()


def _decimal_type(value: Decimal) -> pa.DataType:
    _, digits, exponent = value.as_tuple()
    scale = max(0, -int(exponent))
    whole = max(len(digits) - scale, 1)
    return pa.decimal128(values.MAX_DIGITS, scale) if whole + scale <= values.MAX_DIGITS else pa.string()


def part_of(found: Sequence[tuple[int, Row]], errors: list[RowError], schema: pa.Schema) -> Part:
    """Columns from rows; a value that does not fit rejects its row."""
    bad: dict[int, RowError] = {}
    columns = []
    for field in schema:
        column: list[Any] = [row.get(field.name) for _, row in found]
        if (array := _at_once(column, field.type)) is not None:
            columns.append(array)
            continue
        fit, why = _fitting(field.type)
        column = []
        for number, (line, row) in enumerate(found):
            value = row.get(field.name)
            if value is not None:
                value = fit(value)
                if value is ABSENT:
                    bad.setdefault(number, _misfit(line, field, row, why))
                    value = None
            column.append(value)
        columns.append(pa.array(column, field.type))
    rows = pa.RecordBatch.from_arrays(columns, schema=schema)
    if bad:
        rows = rows.filter(pa.array([n not in bad for n in range(len(found))]))
        errors = sorted([*errors, *bad.values()], key=lambda e: e.line)
    return Part(rows, errors)


def _at_once(column: list[Any], type: pa.DataType) -> pa.Array | None:
    """The array, if all values are of the one kind that pyarrow takes as they are."""
    if not {v.__class__ for v in column} <= _NATURAL.get(type.id, frozenset()):
        return None
    if pa.types.is_floating(type) and any(map(math.isinf, filter(None, column))):
        return None  # they were written as finite
    try:
        return pa.array(column, type)
    except (pa.ArrowInvalid, OverflowError, UnicodeEncodeError):
        return None


def _misfit(line: int, field: pa.Field, row: Row, why: str) -> RowError:
    value = row[field.name]
    number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    code = "OUT_OF_RANGE" if number and why == "number" else "TYPE_MISMATCH"
    shown = _text(value)[:60]
    reason = f"{field.name}: {shown} is no {values.describe(field.type)}"
    return RowError(line, code, reason, {k: shorten(_plain(v)) for k, v in row.items()})


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, str | bool | int) else _text(value)


def _text(value: Any) -> str:
    try:
        return values.to_json(value)
    except RecursionError:
        return TOO_DEEP


def _fitting(type: pa.DataType) -> tuple[Any, str]:
    """A function that makes a value fit or gives `ABSENT`, and what kind of type it is for."""
    if pa.types.is_string(type):
        return _as_text, "text"
    if pa.types.is_boolean(type):
        return (lambda v: v if isinstance(v, bool) else ABSENT), "boolean"
    if pa.types.is_integer(type):
        limit = 2 ** (type.bit_width - 1)
        return (
            lambda v: v if isinstance(v, int) and not isinstance(v, bool) and -limit <= v < limit else ABSENT
        ), "number"
    if pa.types.is_floating(type):
        return _double, "number"
    if pa.types.is_decimal(type):
        return (lambda v: _decimal(v, type)), "number"

    def by_text(value: Any) -> Any:
        if not isinstance(value, str):
            return ABSENT
        try:
            array, bad = values.convert(pa.array([value]), type)
        except UnicodeEncodeError:  # half of a surrogate pair
            return ABSENT
        return ABSENT if bad is not None else array[0].as_py()

    return by_text, "text"


def _as_text(value: Any) -> Any:
    text = value if isinstance(value, str) else _text(value)
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return ABSENT
    return ABSENT if text is TOO_DEEP else text


def _double(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return ABSENT
    try:
        number = float(value)
    except OverflowError:
        return ABSENT
    written = getattr(value, "text", "")
    return ABSENT if number in (float("inf"), float("-inf")) and written else number


def _decimal(value: Any, type: pa.DataType) -> Any:
    """Also from a text or a number with an exponent, as long as no digit is lost; so does pyarrow."""
    value = getattr(value, "text", value)
    if isinstance(value, bool) or not (
        isinstance(value, int | Decimal) or (isinstance(value, str) and _WRITTEN.fullmatch(value))
    ):
        return ABSENT
    exact = Context(prec=type.precision, traps=[Inexact, InvalidOperation])
    try:
        return Decimal(value).quantize(Decimal((0, (1,), -type.scale)), context=exact)
    except (Inexact, InvalidOperation):
        return ABSENT
