"""Arrow arrays as the text in which PostgreSQL takes them: COPY in CSV, array literals, JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv
from pyarrow import types as kind

from headrace.connectors.postgres.image import Type, is_binary, is_list, is_text

_DAY = 86_400_000_000  # microseconds
_YEAR_1_DAYS, _YEAR_10000_DAYS = -719_162, 2_932_897
_TICKS = {"s": 86_400, "ms": 86_400_000, "us": _DAY, "ns": _DAY * 1_000}  # a day
_CSV = csv.WriteOptions(include_header=False, quoting_style="needed")


def to_csv(arrays: Sequence[pa.Array], types: Sequence[Type]) -> bytes:
    """Rows for `COPY … (FORMAT csv)`: a null is nothing, an empty text is `""`."""
    columns = [to_copy(array, type) for array, type in zip(arrays, types, strict=True)]
    sink = io.BytesIO()
    csv.write_csv(pa.RecordBatch.from_arrays(columns, [""] * len(columns)), sink, _CSV)
    return sink.getvalue()


def plain(array: pa.Array) -> pa.Array:
    """Without extension types, dictionaries and views: what they stand for."""
    if isinstance(array, pa.ExtensionArray):
        return plain(array.storage)
    if kind.is_dictionary(array.type):
        return plain(array.dictionary_decode())
    if kind.is_string_view(array.type):
        return array.cast(pa.string())
    if kind.is_binary_view(array.type) or kind.is_fixed_size_binary(array.type):
        return array.cast(pa.binary())
    if is_list(array.type) and not kind.is_list(array.type):
        return array.cast(pa.list_(array.type.value_type))
    return array


def to_copy(array: pa.Array, type: Type) -> pa.Array:
    """An array that the CSV writer spells as PostgreSQL reads it."""
    array = plain(array)
    if is_binary(array.type) and type.name != "bytea":
        return _hex(array, "")  # a uuid
    if type.array or type.name in ("json", "jsonb") or kind.is_nested(array.type):
        return to_text(array, json_too=not type.array)
    if kind.is_float16(array.type):
        return array.cast(pa.float32())
    if kind.is_null(array.type):
        return array.cast(pa.string())
    if kind.is_temporal(array.type) or is_binary(array.type):
        return to_text(array)
    return array


def to_text(array: pa.Array, *, json_too: bool = False) -> pa.Array:
    """Each value as PostgreSQL's text of it. Nested values are JSON, or an array literal."""
    array = plain(array)
    if kind.is_nested(array.type):
        return to_json(array) if json_too else _array_literal(array)
    if is_text(array.type):
        return array
    if is_binary(array.type):
        return _hex(array)
    if kind.is_date(array.type):
        return _date(array)
    if kind.is_timestamp(array.type):
        return _timestamp(array)
    if kind.is_time(array.type):
        return _time(array)
    if kind.is_float16(array.type):
        array = array.cast(pa.float32())
    return array.cast(pa.string())


def to_json(array: pa.Array) -> pa.Array:
    """Each value as JSON text; a null stays null. Numbers keep all their digits, bytes are hex."""
    array = plain(array)
    if kind.is_struct(array.type):
        fields = [
            pc.binary_join_element_wise(json.dumps(field.name) + ":", pc.fill_null(to_json(part), "null"), "")
            for field, part in zip(array.type, array.flatten(), strict=True)  # null where the struct is
        ]
        inner = pc.binary_join_element_wise(*fields, ",") if fields else pa.array([""] * len(array))
        return pc.if_else(array.is_valid(), _wrap("{", inner, "}"), pa.scalar(None, pa.string()))
    if kind.is_map(array.type):
        return _map_json(array)
    if is_list(array.type):
        values = pc.fill_null(to_json(array.flatten()), "null")
        return _wrap("[", pc.binary_join(_relist(array, values), ","), "]")
    text = to_text(array)
    if kind.is_boolean(array.type) or kind.is_integer(array.type) or kind.is_decimal(array.type):
        return text
    if kind.is_floating(array.type):
        odd = pc.invert(pc.is_finite(array))
        return pc.if_else(pc.fill_null(odd, False), _wrap('"', text, '"'), text)
    return _quoted_json(text)


def _map_json(array: pa.Array) -> pa.Array:
    pairs = pa.StructArray.from_arrays([array.keys, array.items], ["key", "value"])
    lists = pa.Array.from_buffers(
        pa.list_(pairs.type), len(array), array.buffers()[:2], offset=array.offset, children=[pairs]
    )
    keys, values = lists.flatten().flatten()
    named = pc.binary_join_element_wise(
        _quoted_json(to_text(keys, json_too=True)), pc.fill_null(to_json(values), "null"), ":"
    )
    return _wrap("{", pc.binary_join(_relist(lists, named), ","), "}")


def _quoted_json(text: pa.Array) -> pa.Array:
    text = text.cast(pa.string())
    if pc.any(pc.match_substring_regex(text, r"[\x00-\x1f]")).as_py():
        return pa.array([t if t is None else json.dumps(t, ensure_ascii=False) for t in text.to_pylist()])
    return _quoted(text)


def _quoted(text: pa.Array) -> pa.Array:
    """In double quotes, with backslashes before what needs one: for JSON and array literals alike."""
    for char in ("\\", '"'):
        text = pc.replace_substring(text, char, "\\" + char)
    return _wrap('"', text, '"')


def _wrap(before: str, text: pa.Array, after: str) -> pa.Array:
    kind_of_text = text.type  # a large_string joins with its like alone
    return pc.binary_join_element_wise(
        *(
            pa.scalar(part, kind_of_text) if isinstance(part, str) else part
            for part in (before, text, after, "")
        )
    )


def _array_literal(array: pa.Array) -> pa.Array:
    values = pc.fill_null(_quoted(to_text(array.flatten()).cast(pa.string())), "NULL")
    return _wrap("{", pc.binary_join(_relist(array, values), ","), "}")


def _relist(array: pa.Array, values: pa.Array) -> pa.Array:
    """The lists of `array` with other values in the place of their own."""
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    return pa.ListArray.from_arrays(offsets, values, mask=array.is_null() if array.null_count else None)


def _hex(array: pa.Array, prefix: str = "\\x") -> pa.Array:
    r"""`\x0aff` for each value."""
    array = array.cast(pa.large_binary())
    _, offset_buffer, data = array.buffers()
    offsets = np.frombuffer(offset_buffer, np.int64)[array.offset : array.offset + len(array) + 1]
    start, end = int(offsets[0]), int(offsets[-1])
    digits = data.slice(start, end - start).to_pybytes().hex().encode() if data is not None else b""
    doubled = pa.py_buffer(((offsets - start) * 2).tobytes())
    text = pa.Array.from_buffers(pa.large_string(), len(array), [None, doubled, pa.py_buffer(digits)])
    return pc.if_else(array.is_valid(), _wrap(prefix, text, ""), pa.scalar(None, pa.large_string()))


def _time(array: pa.Array) -> pa.Array:
    ticks = micros(array)
    text = ticks.cast(pa.time64("us")).cast(pa.string())
    return pc.if_else(pc.equal(ticks, _DAY), "24:00:00", text)


def micros(array: pa.Array) -> pa.Array:
    """Microseconds of a time or timestamp, as whole numbers."""
    if array.type.unit == "ns":
        return pc.divide(array.cast(pa.int64()), 1000)
    wide = pa.timestamp("us") if kind.is_timestamp(array.type) else pa.time64("us")
    return array.cast(wide).cast(pa.int64())


def _timestamp(array: pa.Array) -> pa.Array:
    unit, zone = array.type.unit, "+00" if array.type.tz else ""
    ticks = array.cast(pa.int64())
    if _within(ticks, _YEAR_1_DAYS * _TICKS[unit], _YEAR_10000_DAYS * _TICKS[unit]):
        return _wrap("", micros(array).cast(pa.timestamp("us")).cast(pa.string()), zone)
    return pa.array([v if v is None else _far(v, unit, zone) for v in ticks.to_pylist()], pa.string())


def _date(array: pa.Array) -> pa.Array:
    days = array.cast(pa.date32()).cast(pa.int32())
    if _within(days, _YEAR_1_DAYS, _YEAR_10000_DAYS):
        return array.cast(pa.date32()).cast(pa.string())
    return pa.array([v if v is None else _far(v, "D") for v in days.to_pylist()], pa.string())


def _within(array: pa.Array, start: int, end: int) -> bool:
    least, most = pc.min_max(array).values()
    return not least.is_valid or bool(start <= least.as_py() and most.as_py() < end)


def _far(value: int, unit: Literal["D", "s", "ms", "us", "ns"], zone: str = "") -> str:
    """A day or a moment outside the years 1 to 9999, which Arrow does not spell as PostgreSQL does."""
    day, _, time = str(np.datetime64(value, unit)).partition("T")
    year, rest = day.lstrip("-").split("-", 1)
    number = -int(year) if day.startswith("-") else int(year)
    era = "" if number > 0 else " BC"
    return f"{number if number > 0 else 1 - number:04}-{rest}{time and ' ' + time}{zone}{era}"
