"""From text to types without losing anything: what a column of texts is, and each value as that type."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.errors import ConfigError

TIMESTAMP = pa.timestamp("us")
TIMESTAMP_TZ = pa.timestamp("us", "UTC")
TIME = pa.time64("us")
MAX_DIGITS = 38

_INTEGER = r"^[+-]?(0|[1-9][0-9]*)$"
_DECIMAL = r"^[+-]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)$"
_DOUBLE = r"^[+-]?(((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?|(?i:nan|inf|infinity))$"
_TRUE, _FALSE = ("true", "yes", "t"), ("false", "no", "f")
_BOOLEANS = pa.array([*_TRUE, *_FALSE])
_FIRST_DAY = -719_162  # 0001-01-01, the first day that every reader of a table can show

NAMES: Mapping[str, pa.DataType] = {
    "boolean": pa.bool_(),
    "integer": pa.int64(),
    "double": pa.float64(),
    "date": pa.date32(),
    "timestamp": TIMESTAMP,
    "timestamp_tz": TIMESTAMP_TZ,
    "time": TIME,
    "string": pa.string(),
}
"""The types that a setting can name, besides `decimal(precision, scale)`."""


def named_type(text: str) -> pa.DataType:
    """The type that a setting names. Raises ConfigError."""
    name = text.strip().lower().replace(" ", "")
    if name in NAMES:
        return NAMES[name]
    if name.startswith("decimal(") and name.endswith(")"):
        precision, _, scale = name[8:-1].partition(",")
        if precision.isdigit() and (scale or "0").isdigit():
            digits, places = int(precision), int(scale or "0")
            if 0 < digits <= MAX_DIGITS and places <= digits:
                return pa.decimal128(digits, places)
    raise ConfigError(
        "files.type",
        f"{text!r} is not a column type",
        field="types",
        remedy=f"Use one of {', '.join(NAMES)}, decimal(precision, scale).",
    )


def infer(texts: pa.Array) -> pa.DataType:
    """The narrowest type that holds every text; null for a column without any value.

    Digits with leading zeros are no number, since they would lose them; 0 and 1 are integers.
    """
    present = pc.drop_null(_without_empty(texts))
    if len(present) == 0:
        return pa.null() if texts.null_count == len(texts) else pa.string()
    head = present[:50]
    for kind in (pa.bool_(), pa.int64(), None, pa.float64(), pa.date32(), TIMESTAMP, TIMESTAMP_TZ, TIME):
        try:
            for part in (head, present):
                found = _decimal_type(part) if kind is None else kind
                _STRICT[found.id](part, found)
        except (pa.ArrowInvalid, ValueError):
            continue
        return found
    return pa.string()


def convert(texts: pa.Array, type: pa.DataType) -> tuple[pa.Array, pa.Array | None]:
    """The texts as `type`, and a mask of those that don't fit (they are null); None if all do.

    An empty text is null for every type but string.
    """
    if pa.types.is_string(type):
        return texts, None
    if pa.types.is_null(texts.type):
        return pa.nulls(len(texts), type), None
    strict = _STRICT[type.id]
    texts = _without_empty(texts)
    try:
        return strict(texts, type), None
    except (pa.ArrowInvalid, ValueError):
        return _salvage(texts, type, strict)


def widen(a: pa.DataType, b: pa.DataType) -> pa.DataType:
    """The type that holds the values of both; text if no other does."""
    if a == b or pa.types.is_null(b):
        return a
    if pa.types.is_null(a):
        return b
    if _numeric(a) and _numeric(b):
        return _widen_numbers(a, b)
    if {a, b} == {pa.date32(), TIMESTAMP}:
        return TIMESTAMP
    if pa.types.is_nested(a) and pa.types.is_nested(b):
        try:
            both = [pa.schema([("c", a)]), pa.schema([("c", b)])]
            return pa.unify_schemas(both, promote_options="permissive").field(0).type
        except (pa.ArrowTypeError, pa.ArrowInvalid):
            return pa.string()
    return pa.binary() if pa.types.is_binary(a) and pa.types.is_binary(b) else pa.string()


def cast(array: pa.Array, type: pa.DataType) -> tuple[pa.Array, pa.Array | None]:
    """A typed array as `type`, and a mask of the values that don't fit (they are null); None if all do.

    Nanoseconds are cut to microseconds.
    """
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if array.type == type:
        return array, None
    if pa.types.is_nested(array.type) and pa.types.is_string(type):
        return pa.array([None if v is None else to_json(v) for v in array.to_pylist()], type), None

    def strict(part: pa.Array, wanted: pa.DataType) -> pa.Array:
        safe = not pa.types.is_timestamp(part.type) and not pa.types.is_time(part.type)
        return part.cast(wanted, safe=safe)

    try:
        return strict(array, type), None
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return _salvage(array, type, strict)


def normal(type: pa.DataType) -> pa.DataType:
    """The type as which a typed file's column travels: signed, microseconds, no dictionaries."""
    if isinstance(type, pa.ExtensionType):
        return normal(type.storage_type)
    if pa.types.is_dictionary(type):
        return normal(type.value_type)
    if pa.types.is_timestamp(type):
        return TIMESTAMP_TZ if type.tz else TIMESTAMP
    if pa.types.is_time(type):
        return TIME
    if pa.types.is_struct(type):
        return pa.struct([(f.name, normal(f.type)) for f in type])
    if pa.types.is_list(type) or pa.types.is_large_list(type):
        return pa.list_(normal(type.value_type))
    if pa.types.is_map(type):
        return pa.map_(normal(type.key_type), normal(type.item_type))
    if pa.types.is_decimal256(type) or pa.types.is_large_string(type) or pa.types.is_string_view(type):
        return pa.string()
    if pa.types.is_large_binary(type) or pa.types.is_binary_view(type):
        return pa.binary()
    return _NORMAL.get(type, type)


_NORMAL: Mapping[pa.DataType, pa.DataType] = {
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.decimal128(20, 0),
    pa.float16(): pa.float32(),
    pa.date64(): pa.date32(),
}


def union(schemas: list[pa.Schema]) -> pa.Schema:
    """All columns by name in order of appearance, each wide enough for every schema; all nullable."""
    types: dict[str, pa.DataType] = {}
    for schema in schemas:
        for field in schema:
            types[field.name] = widen(types.get(field.name, pa.null()), field.type)
    return pa.schema([(name, pa.string() if pa.types.is_null(t) else t) for name, t in types.items()])


def why_not(text: str, type: pa.DataType) -> tuple[str, str]:
    """Code and reason for a text that `convert` could not take."""
    number = pc.match_substring_regex(pa.scalar(text), _DOUBLE).as_py()
    if _numeric(type) and number and not text.strip("+-").lower().startswith(("n", "i")):
        return "OUT_OF_RANGE", f"{_shown(text)} is no {describe(type)}"
    return "TYPE_MISMATCH", f"{_shown(text)} is no {describe(type)}"


def describe(type: pa.DataType) -> str:
    """The type by the word that a setting would use."""
    if pa.types.is_decimal(type):
        return f"decimal({type.precision}, {type.scale})"
    return next((name for name, known in NAMES.items() if known == type), str(type))


def to_json(value: Any) -> str:
    """JSON text in which numbers keep their digits."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{to_json(str(k))}: {to_json(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(to_json, value)) + "]"
    if isinstance(value, Decimal):
        return str(value)
    if value is None or isinstance(value, bool | int | float):
        return getattr(value, "text", None) or json.dumps(value)
    return json.dumps(value.hex() if isinstance(value, bytes) else str(value), ensure_ascii=False)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _without_empty(texts: pa.Array) -> pa.Array:
    empty = pc.equal(texts, "")
    return pc.if_else(empty, None, texts) if pc.any(empty).as_py() else texts


def _salvage(
    texts: pa.Array, type: pa.DataType, strict: Callable[[pa.Array, pa.DataType], pa.Array]
) -> tuple[pa.Array, pa.Array]:
    """Halve until the bad ones stand alone: few bad values cost few passes."""
    parts: list[pa.Array] = []
    bad = np.zeros(len(texts), dtype=bool)

    def take(start: int, end: int) -> None:
        try:
            parts.append(strict(texts[start:end], type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError):
            if end - start == 1:
                bad[start] = True
                parts.append(pa.nulls(1, type))
            else:
                middle = (start + end) // 2
                take(start, middle)
                take(middle, end)

    take(0, len(texts))
    return pa.concat_arrays(parts), pa.array(bad)


def _require(texts: pa.Array, pattern: str) -> None:
    if pc.all(pc.match_substring_regex(texts, pattern)).as_py() is False:
        raise ValueError(pattern)


def _boolean(texts: pa.Array, type: pa.DataType) -> pa.Array:
    found = pc.index_in(pc.ascii_lower(texts), _BOOLEANS)
    if found.null_count != texts.null_count:
        raise ValueError("boolean")
    return pc.less(found, len(_TRUE))


def _integer(texts: pa.Array, type: pa.DataType) -> pa.Array:
    try:
        values = texts.cast(type)
    except pa.ArrowInvalid:
        values = pc.replace_substring_regex(texts, r"^\+([0-9])", r"\1").cast(type)
    if not values.cast(pa.string()).equals(texts):
        _require(texts, _INTEGER)
    return values


def _decimal(texts: pa.Array, type: pa.DataType) -> pa.Array:
    values = texts.cast(type)
    whole = type.precision - type.scale  # with more digits than that, the cast may wrap around
    _require(texts, _DECIMAL.replace("[1-9][0-9]*", f"[1-9][0-9]{{0,{whole - 1}}}" if whole else "0"))
    return values


def _decimal_type(texts: pa.Array) -> pa.DataType:
    """A decimal with the largest scale seen, and all the room there is before the point."""
    _require(texts, _DECIMAL)
    length = pc.utf8_length(pc.utf8_ltrim(texts, "+-"))
    point = pc.find_substring(texts, ".")
    scales = pc.if_else(pc.greater_equal(point, 0), pc.subtract(pc.utf8_length(texts), pc.add(point, 1)), 0)
    scale = pc.max(scales).as_py()
    whole = pc.max(pc.subtract(length, pc.add(scales, pc.if_else(pc.greater_equal(point, 0), 1, 0)))).as_py()
    if whole + scale > MAX_DIGITS:
        raise ValueError("decimal")
    return pa.decimal128(MAX_DIGITS, scale)


def _double(texts: pa.Array, type: pa.DataType) -> pa.Array:
    values = texts.cast(type)
    _require(texts, _DOUBLE)
    if pc.any(pc.match_substring_regex(texts, r"^[+-]?[0-9]{39,}$")).as_py():
        raise ValueError("an integer that a double would round")
    infinite = pc.is_inf(values)
    if pc.any(infinite).as_py():
        _require(texts.filter(infinite), r"(?i)inf")
    return values


def _date(texts: pa.Array, type: pa.DataType) -> pa.Array:
    values = texts.cast(type)
    _from_year_one(values.cast(pa.int32()), _FIRST_DAY)
    return values


def _timestamp(texts: pa.Array, type: pa.DataType) -> pa.Array:
    values = texts.cast(type)
    _from_year_one(values.cast(pa.int64()), _FIRST_DAY * 86_400_000_000)
    return values


def _time(texts: pa.Array, type: pa.DataType) -> pa.Array:
    _require(texts, r"^[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?$")
    return pc.binary_join_element_wise("1970-01-01", texts, "T").cast(TIMESTAMP).cast(type)


def _text(texts: pa.Array, type: pa.DataType) -> pa.Array:
    return texts


def _from_year_one(values: pa.Array, first: int) -> None:
    least = pc.min(values).as_py()
    if least is not None and least < first:
        raise ValueError("year")


_STRICT: dict[int, Callable[[pa.Array, pa.DataType], pa.Array]] = {
    pa.bool_().id: _boolean,
    pa.int64().id: _integer,
    pa.decimal128(38, 0).id: _decimal,
    pa.float64().id: _double,
    pa.date32().id: _date,
    TIMESTAMP.id: _timestamp,
    TIME.id: _time,
    pa.string().id: _text,
}


def _numeric(type: pa.DataType) -> bool:
    return bool(pa.types.is_integer(type) or pa.types.is_decimal(type) or pa.types.is_floating(type))


def _widen_numbers(a: pa.DataType, b: pa.DataType) -> pa.DataType:
    if pa.types.is_floating(a) or pa.types.is_floating(b):
        return pa.float64()
    if pa.types.is_integer(a) and pa.types.is_integer(b):
        return max(a, b, key=lambda t: t.bit_width)
    (whole_a, scale_a), (whole_b, scale_b) = _digits(a), _digits(b)
    scale = max(scale_a, scale_b)
    return pa.decimal128(min(MAX_DIGITS, max(whole_a, whole_b) + scale), scale)


@functools.cache
def _digits(type: pa.DataType) -> tuple[int, int]:
    """Digits before and after the point."""
    if pa.types.is_decimal(type):
        return type.precision - type.scale, type.scale
    return {8: 3, 16: 5, 32: 10}.get(type.bit_width, 19), 0
