"""Values of JSON in Arrow: exactly, or null with the reason."""

from __future__ import annotations

import base64
import json
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import orjson
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.connector import Batch, Stream
from headrace.connectors.airbyte.mask import Mask
from headrace.connectors.airbyte.rows import Rows
from headrace.connectors.airbyte.talk import raw_member
from headrace.connectors.airbyte.types import ADDED, arrow_schema, columns

NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)


def made(schema: dict[str, Any], *values: str, key: bool = False) -> Batch:
    """A batch of one column `v` of that schema, from values as the connector writes them."""
    found = columns({"properties": {"v": schema}})
    rows = Rows(Stream(name="s", schema=arrow_schema(found)), found, ["v"] if key else [])
    for value in values:
        line = f'{{"type":"RECORD","record":{{"stream":"s","data":{{"v":{value}}},"emitted_at":1}}}}'.encode()
        try:
            record = orjson.loads(line)["record"]
        except ValueError:
            record = json.loads(line)["record"]
        rows.add_record(record)
        rows.add_line(line)
    return rows.seal()


def column(schema: dict[str, Any], *values: str) -> list[Any]:
    found: list[Any] = made(schema, *values).rows.column("v").to_pylist()
    return found


STRING = {"type": ["null", "string"]}
MOMENT = STRING | {"format": "date-time"}


@pytest.mark.parametrize(
    ("schema", "type", "given", "expected"),
    [
        (
            STRING,
            pa.string(),
            ['"a"', "null", "1", "1.10", "true", '{"a":1.10}'],
            ["a", None, "1", "1.10", "true", '{"a":1.10}'],
        ),
        (STRING | {"format": "date"}, pa.date32(), ['"2026-01-02"', "null"], [date(2026, 1, 2), None]),
        (
            MOMENT,
            pa.timestamp("us", "UTC"),
            ['"2026-01-02T13:00:00+01:00"', '"2026-01-02T12:00:00Z"'],
            [NOON, NOON],
        ),
        (
            MOMENT,
            pa.timestamp("us", "UTC"),
            ['"2026-01-02T12:00:00.1234567Z"', "5", "true"],
            [None, None, None],
        ),
        (
            MOMENT | {"airbyte_type": "timestamp_without_timezone"},
            pa.timestamp("us"),
            ['"2026-01-02T12:00:00"', '"2026-01-02T12:00:00Z"', '"2026-01-02T12:00:00+02:00"'],
            [NOON.replace(tzinfo=None), NOON.replace(tzinfo=None), None],
        ),
        (
            STRING | {"format": "time"},
            pa.time64("us"),
            ['"12:00:00.5"', '"12:00:00Z"'],
            [time(12, 0, 0, 500_000), None],
        ),
        (
            STRING | {"contentEncoding": "base64"},
            pa.binary(),
            [json.dumps(base64.b64encode(b"\0\1").decode()), '"?"'],
            [b"\0\1", None],
        ),
        ({"type": "boolean"}, pa.bool_(), ["true", "false", "1", '"true"'], [True, False, None, True]),
        (
            {"type": "integer"},
            pa.int64(),
            ["1", "2.0", "2.5", "true", str(2**63 - 1), str(2**63)],
            [1, 2, None, None, 2**63 - 1, None],
        ),
        ({"type": "integer"}, pa.int64(), ['"12"', "1e3", "1e400"], [12, 1000, None]),
        ({"type": "number", "airbyte_type": "integer"}, pa.int64(), ["7"], [7]),
        (
            {"type": "number"},
            pa.float64(),
            ["1.5", "2", str(2**60 + 1), '"2.5"', "true"],
            [1.5, 2.0, None, 2.5, None],
        ),
        (
            {"type": "integer", "airbyte_type": "big_integer"},
            pa.decimal128(38, 0),
            [str(10**37), "1.5", str(10**38)],
            [Decimal(10**37), None, None],
        ),
        (
            {"type": "number", "airbyte_type": "big_number"},
            pa.string(),
            ["1.10", str(2**70), '"x"'],
            ["1.10", str(2**70), None],
        ),
        (
            {"type": "array", "items": {"type": "integer"}},
            pa.list_(pa.int64()),
            ["[1,null]", "[1.5]", "1"],
            [[1, None], None, None],
        ),
        ({"type": "array", "items": {"type": "object"}}, pa.string(), ['[{"a": 1.10}]'], ['[{"a":1.10}]']),
        (
            {"type": "object"},
            pa.string(),
            ['{"b": 123456789012345678901234567890, "a": "\\ud800"}'],
            ['{"b":123456789012345678901234567890,"a":"\\ud800"}'],
        ),
        ({}, pa.string(), [f'{{"n": {2**70}}}', '"text"', "1"], [f'{{"n":{2**70}}}', '"text"', "1"]),
        ({"type": ["string", "integer"]}, pa.string(), ["1", '"a"'], ["1", '"a"']),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, pa.int64(), ["1", "null"], [1, None]),
        ({"oneOf": [{"type": "integer"}, {"type": "string"}]}, pa.string(), ["1"], ["1"]),
    ],
)
def test_a_value_is_kept_exactly_or_becomes_null(
    schema: dict[str, Any], type: pa.DataType, given: list[str], expected: list[Any]
) -> None:
    batch = made(schema, *given)
    assert batch.rows.schema.field("v").type == type
    assert batch.rows.column("v").to_pylist() == expected
    changes = batch.rows.column("_field_changes").to_pylist()
    for text, value, change in zip(given, expected, changes, strict=True):
        assert (change is not None) == (value is None and text != "null"), text


def test_a_time_without_an_offset_is_taken_for_utc_and_says_so() -> None:
    batch = made(MOMENT, '"2026-01-02T12:00:00"')
    assert batch.rows.column("v").to_pylist() == [NOON]
    (change,) = json.loads(batch.rows.column("_field_changes").to_pylist()[0])
    assert (change["field"], change["change"]) == ("v", "ASSUMED")


def test_a_row_whose_key_does_not_fit_is_rejected_and_the_same_when_read_again() -> None:
    first, second = (made({"type": "integer"}, "1", '"x"', "3", key=True) for _ in range(2))
    assert first.rows.column("v").to_pylist() == [1, 3]
    assert first.read == 3
    assert [reject.code for reject in first.rejects] == ["airbyte.value.key"]
    assert first.rejects == second.rejects


def test_names_that_differ_in_case_alone_or_are_ours_get_a_suffix() -> None:
    text = {"type": "string"}
    names = ("Id", "id", "ID", "_extra", "ok")
    found = columns({"properties": dict.fromkeys(names, text)})
    assert [column.member for column in found] == list(names)
    landed = [column.name for column in found]
    assert landed[4] == "ok" and len({name.lower() for name in (*landed, *ADDED)}) == 5 + len(ADDED)
    again = columns({"properties": dict.fromkeys(reversed(names), text)})
    assert {c.member: c.name for c in again} == {c.member: c.name for c in found}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
SCHEMAS = st.sampled_from(
    [STRING, MOMENT, STRING | {"format": "date"}, STRING | {"format": "time"}, {"type": "boolean"},
     STRING | {"contentEncoding": "base64"}, {"type": "integer"}, {"type": "number"}, {"type": "object"}, {},
     {"type": "integer", "airbyte_type": "big_integer"}, {"type": "number", "airbyte_type": "big_number"},
     {"type": "array", "items": {"type": "number"}}, {"type": "array", "items": {"type": "string"}}]
)  # fmt: skip


@given(SCHEMAS, st.lists(VALUES, min_size=1, max_size=5))
def test_no_value_at_all_stops_a_batch(schema: dict[str, Any], values: list[Any]) -> None:
    batch = made(schema, *map(json.dumps, values))
    batch.rows.validate(full=True)
    nulls = batch.rows.column("v").is_null().to_pylist()
    changes = batch.rows.column("_field_changes").to_pylist()
    for value, null, change in zip(values, nulls, changes, strict=True):
        assert value is None or not null or change


def test_the_text_of_a_member_is_cut_out_as_it_stands() -> None:
    line = b'{"type" : "STATE" , "x": [1, {"state": 2}], "state":  {"a": 1.10, "b": "}\\""} }'
    assert raw_member(line, "state") == '{"a": 1.10, "b": "}\\""}'


@given(
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=40),
    st.binary(max_size=5),
)
def test_no_base64_of_a_secret_gets_through(secret: str, before: bytes) -> None:
    encoded = base64.b64encode(before + secret.encode() + b"after").decode()
    assert "****" in Mask([secret])(f"Authorization: Basic {encoded}")
