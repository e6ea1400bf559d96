"""JSON Schema, as Airbyte connectors use it, and what becomes of it in Arrow.

schema, null aside                                Arrow
string                                            string
string: date                                      date32
string: date-time                                 timestamp[us, UTC]
string: date-time, timestamp_without_timezone     timestamp[us]
string: time                                      time64[us]; with a time zone string
string: contentEncoding base64                    binary
boolean                                           bool
integer, number as integer                        int64
number                                            float64
big_integer, big_number                           decimal128(38, 0), string
array of string, integer, number or boolean       list of it
anything else                                     string that holds JSON
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import pyarrow as pa

UTC = pa.timestamp("us", "UTC")


class Kind(Enum):
    """How the values of a column are made."""

    TEXT = auto()
    DATE = auto()
    MOMENT = auto()  # in UTC
    WALL = auto()  # date and time without a zone
    TIME = auto()
    BINARY = auto()
    BOOLEAN = auto()
    INTEGER = auto()
    NUMBER = auto()
    BIG_INTEGER = auto()
    BIG_NUMBER = auto()
    LIST = auto()
    JSON = auto()


_TYPES = {
    Kind.TEXT: pa.string(),
    Kind.DATE: pa.date32(),
    Kind.MOMENT: UTC,
    Kind.WALL: pa.timestamp("us"),
    Kind.TIME: pa.time64("us"),
    Kind.BINARY: pa.binary(),
    Kind.BOOLEAN: pa.bool_(),
    Kind.INTEGER: pa.int64(),
    Kind.NUMBER: pa.float64(),
    Kind.BIG_INTEGER: pa.decimal128(38, 0),
    Kind.BIG_NUMBER: pa.string(),
    Kind.JSON: pa.string(),
}


@dataclass(frozen=True, slots=True)
class Column:
    """`member` is what the connector calls it, `name` what the column is called."""

    member: str
    name: str
    kind: Kind
    type: pa.DataType


EXTRACTED_AT = "_extracted_at"
FIELD_CHANGES = "_field_changes"
EXTRA = "_extra"
ADDED = {EXTRACTED_AT: UTC, FIELD_CHANGES: pa.string(), EXTRA: pa.string()}
"""Columns of our own: when the connector read the row, which fields lost their value and why, as JSON, and
members that are not in the schema, as JSON."""


def columns(json_schema: Mapping[str, Any]) -> list[Column]:
    """The columns of a stream. Names that differ only in case, or are ours, get a suffix of their own."""
    properties = json_schema.get("properties") or {}
    taken = set(ADDED)
    found = []
    for member in sorted(properties, key=lambda name: (name.lower(), name)):
        name = member
        if name.lower() in taken:
            name = f"{member}_{hashlib.sha256(member.encode()).hexdigest()[:6]}"
        taken.add(name.lower())
        kind, type = _kind(properties[member])
        found.append(Column(member, name, kind, type))
    order = {member: at for at, member in enumerate(properties)}
    return sorted(found, key=lambda column: order[column.member])


def arrow_schema(found: Sequence[Column]) -> pa.Schema:
    return pa.schema([(c.name, c.type) for c in found] + list(ADDED.items()))


def _kind(schema: Any) -> tuple[Kind, pa.DataType]:
    kind = _named(schema) if isinstance(schema, Mapping) else Kind.JSON
    if kind is Kind.LIST:
        items = schema.get("items")
        inner = _named(items) if isinstance(items, Mapping) else Kind.JSON
        if inner in (Kind.INTEGER, Kind.NUMBER, Kind.BOOLEAN):
            return kind, pa.list_(_TYPES[inner])
        if isinstance(items, Mapping) and _types(items) == ["string"]:
            return kind, pa.list_(pa.string())
        kind = Kind.JSON
    return kind, _TYPES[kind]


def _types(schema: Mapping[str, Any]) -> list[str]:
    """The types that it allows besides null; none when it can't be told."""
    if any(word in schema for word in ("oneOf", "anyOf", "allOf", "$ref")):
        return _of_choices(schema)
    types = schema.get("type")
    return [t for t in (types if isinstance(types, list) else [types]) if t and t != "null"]


def _of_choices(schema: Mapping[str, Any]) -> list[str]:
    """`anyOf` of a type and null is that type."""
    choices = schema.get("oneOf") or schema.get("anyOf") or []
    real = [c for c in choices if isinstance(c, Mapping) and c.get("type") != "null"]
    plain = len(real) == 1 and set(real[0]) <= {"type"}
    return _types(real[0]) if plain else []


def _named(schema: Mapping[str, Any]) -> Kind:
    types = _types(schema)
    airbyte, format = schema.get("airbyte_type"), schema.get("format")
    if airbyte == "big_integer":
        return Kind.BIG_INTEGER
    if airbyte == "big_number":
        return Kind.BIG_NUMBER
    match types:
        case ["string"]:
            return _of_text(schema, airbyte, format)
        case ["boolean"]:
            return Kind.BOOLEAN
        case ["integer"]:
            return Kind.INTEGER
        case ["number"]:
            return Kind.INTEGER if airbyte == "integer" else Kind.NUMBER
        case ["integer", "number"] | ["number", "integer"]:
            return Kind.NUMBER
        case ["array"]:
            return Kind.LIST
    return Kind.JSON


def _of_text(schema: Mapping[str, Any], airbyte: Any, format: Any) -> Kind:
    if schema.get("contentEncoding") == "base64":
        return Kind.BINARY
    if format == "date":
        return Kind.DATE
    if format == "date-time":
        return Kind.WALL if airbyte == "timestamp_without_timezone" else Kind.MOMENT
    if format == "time":
        return Kind.TEXT if airbyte == "time_with_timezone" else Kind.TIME
    return Kind.TEXT
