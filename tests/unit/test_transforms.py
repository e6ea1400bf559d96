"""rename, cast and hash: every row read is in the result or among the rejects, and nothing else changes."""

from __future__ import annotations

import hashlib
import hmac
import json
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.connector import Batch, Change, Transform, TransformSpec
from headrace.errors import ConfigError
from headrace.transforms import cast, hash, rename


def made(spec: TransformSpec, **settings: Any) -> Transform:
    return spec.make(spec.config.parse(settings))


def batch(changes: list[Change] | None = None, **columns: Any) -> Batch:
    rows = pa.RecordBatch.from_pydict(columns)
    return Batch("s", rows, None if changes is None else pa.array(changes, pa.int8()))


def test_rename_can_swap_two_names_and_keeps_types_and_metadata() -> None:
    schema = pa.schema([pa.field("a", pa.int64(), nullable=False, metadata={"k": "v"}), ("b", pa.string())])
    rows = pa.RecordBatch.from_pylist([{"a": 1, "b": "x"}], schema=schema)
    marks = {"a": pa.array([True])}
    out = made(rename.SPEC, columns={"a": "b", "b": "a"})(Batch("s", rows, unchanged=marks))
    assert out.rows.to_pylist() == [{"b": 1, "a": "x"}]
    assert out.rows.schema.field("b").equals(schema.field("a").with_name("b"), check_metadata=True)
    assert out.unchanged == {"b": marks["a"]}


def test_rename_to_a_name_that_is_taken_is_refused() -> None:
    with pytest.raises(ConfigError, match="two columns 'b'") as refused:
        made(rename.SPEC, columns={"a": "b"})(batch(a=[1], b=[2]))
    assert refused.value.code == "rename.taken"


@pytest.mark.parametrize(
    "transform",
    [
        made(rename.SPEC, columns={"emial": "x"}),
        made(cast.SPEC, columns={"emial": "text"}),
        made(hash.SPEC, columns=["emial"], salt="s"),
    ],
)
def test_a_column_that_is_not_there_is_named_with_the_nearest(transform: Transform) -> None:
    with pytest.raises(ConfigError, match="emial") as refused:
        transform(batch(email=["x"]))
    assert "Did you mean 'email'?" in (refused.value.remedy or "")


@pytest.mark.parametrize(
    ("values", "type", "good", "bad"),
    [
        (["1", "+1", "x", None, ""], "bigint", [1, None], 3),
        ([1, 2**40, None], "integer", [1, None], 1),
        ([1.5, 2.0, float("nan"), float("inf")], "integer", [2], 3),
        (["1.25", "1.255", "12345"], "decimal(5,2)", [Decimal("1.25")], 2),
        ([7, 10**12], "decimal(5,2)", [Decimal("7.00")], 1),
        ([2**53 + 1, 3], "double", [3.0], 1),
        (["true", "FALSE", "0", "maybe"], "boolean", [True, False, False], 1),
        (["2024-02-29", "2023-02-29"], "date", None, 1),
        (["2024-01-01T10:00:00", "2024-01-01T10:00:00+02:00"], "timestamp", None, 1),
        (["2024-01-01T10:00:00", "2024-01-01T10:00:00+02:00"], "timestamptz", None, 1),
        ([b"ok", b"\xff"], "text", ["ok"], 1),
    ],
)
def test_a_value_that_does_not_fit_rejects_its_row(values: list[Any], type: str, good: Any, bad: int) -> None:
    out = made(cast.SPEC, columns={"v": type})(batch(v=values))
    assert len(out.rejects) == bad
    assert out.rows.num_rows == len(values) - bad
    if good is not None:
        assert out.rows["v"].to_pylist() == good
    assert {r.code for r in out.rejects} == {"cast.value"}


def test_a_timestamptz_is_cast_in_utc() -> None:
    out = made(cast.SPEC, columns={"v": "timestamptz"})(batch(v=["2024-01-01T10:00:00+02:00"]))
    assert str(out.rows["v"][0]) == "2024-01-01 08:00:00+00:00"


def test_a_row_with_two_bad_values_is_rejected_once_with_its_content() -> None:
    transform = made(cast.SPEC, columns={"a": "bigint", "b": "date"})
    row = {
        "k": [1, 2],
        "a": ["x", "5"],
        "b": ["y", "2024-01-01"],
        "f": [float("nan"), 1.0],
        "d": [Decimal("1.5")] * 2,
    }
    out = transform(batch([Change.INSERT, Change.DELETE], **row))
    (reject,) = out.rejects
    assert reject.where["column"] == "a"
    assert reject.row == {"k": 1, "a": "x", "b": "y", "f": "nan", "d": "1.5"}
    json.dumps(reject.to_json(), allow_nan=False)
    assert out.changes is not None and out.changes.to_pylist() == [Change.DELETE]
    assert out.rows["k"].to_pylist() == [2]
    again = transform(batch([Change.INSERT, Change.DELETE], **row)).rejects[0]
    assert again.where == reject.where


@given(
    st.lists(st.one_of(st.none(), st.text(max_size=5), st.integers().map(str)), max_size=40),
    st.sampled_from([*cast.TYPES, "decimal(6,2)"]),
)
def test_cast_accounts_for_every_row_and_keeps_their_order(values: list[str | None], type: str) -> None:
    read = batch(n=pa.array(range(len(values)), pa.int64()), v=pa.array(values, pa.string()))
    out = made(cast.SPEC, columns={"v": type})(read)
    assert out.read == len(values)
    rejected = [r.row["n"] for r in out.rejects if isinstance(r.row, dict)]
    assert sorted(rejected + out.rows["n"].to_pylist()) == list(range(len(values)))
    assert out.rows["n"].to_pylist() == sorted(out.rows["n"].to_pylist())
    for n, value in zip(out.rows["n"].to_pylist(), out.rows["v"].to_pylist(), strict=True):
        assert (value is None) == (values[n] is None)


@given(st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), max_size=40))
def test_whole_numbers_survive_text_and_back(values: list[int | None]) -> None:
    read = batch(v=pa.array(values, pa.int64()))
    there = made(cast.SPEC, columns={"v": "text"})(read)
    assert made(cast.SPEC, columns={"v": "bigint"})(there).rows.equals(read.rows)


def test_a_type_that_can_never_be_cast_is_a_setting_to_change() -> None:
    with pytest.raises(ConfigError) as refused:
        made(cast.SPEC, columns={"v": "bigint"})(batch(v=[[1], [2]]))
    assert refused.value.code == "cast.type"


@pytest.mark.parametrize("type", ["number", "decimal(39,0)", "decimal(5,6)", "decimal()", ""])
def test_an_unknown_type_is_refused_before_any_row(type: str) -> None:
    with pytest.raises(ConfigError, match="is not one of"):
        made(cast.SPEC, columns={"v": type})


@given(st.lists(st.one_of(st.none(), st.text(max_size=4)), max_size=40))
def test_hash_is_the_keyed_hash_of_the_text_and_null_stays_null(values: list[str | None]) -> None:
    read = batch(v=pa.array(values, pa.string()), other=list(range(len(values))))
    out = made(hash.SPEC, columns=["v"], salt="pepper")(read)
    wanted = [v if v is None else hmac.new(b"pepper", v.encode(), hashlib.sha256).hexdigest() for v in values]
    assert out.rows["v"].to_pylist() == wanted
    assert out.rows["other"].equals(read.rows["other"])


def test_a_number_and_its_text_have_the_same_hash_so_that_masked_tables_still_join() -> None:
    transform = made(hash.SPEC, columns=["v"], salt="pepper")
    number, text, raw = (transform(batch(v=v)).rows["v"] for v in ([5], ["5"], [b"5"]))
    assert number.equals(text) and text.equals(raw)
    assert not number.equals(made(hash.SPEC, columns=["v"], salt="salt")(batch(v=[5])).rows["v"])


def test_a_list_cannot_be_hashed() -> None:
    with pytest.raises(ConfigError) as refused:
        made(hash.SPEC, columns=["v"], salt="s")(batch(v=[[1]]))
    assert refused.value.code == "hash.type"


def test_the_salt_is_a_secret() -> None:
    config = hash.HashConfig.parse({"columns": ["v"], "salt": "pepper"})
    assert config.secret_fields() == {"salt"}
    assert "pepper" not in repr(config)


@pytest.mark.parametrize("type", [*cast.TYPES.values(), pa.decimal128(10, 2), pa.binary()])
def test_transforms_work_on_a_batch_of_no_rows(type: pa.DataType) -> None:
    empty = batch(v=pa.array([], type))
    assert made(hash.SPEC, columns=["v"], salt="s")(empty).rows.schema.field("v").type == pa.string()
    assert made(cast.SPEC, columns={"v": "text"})(empty).rows.schema.field("v").type == pa.string()
    assert made(rename.SPEC, columns={"v": "w"})(empty).rows.schema.names == ["w"]
