"""What every target must do, for each write mode that it declares."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from headrace import catalog
from headrace.connector import (
    Batch,
    Capability,
    Change,
    Slice,
    Staged,
    Stream,
    StreamRead,
    Target,
    Token,
    WriteMode,
)
from headrace.errors import ConfigError, Fenced, HeadraceError
from tests.conformance.homes import TargetHome

SCHEMA = pa.schema([("id", pa.int64()), ("name", pa.string()), ("at", pa.timestamp("us", "UTC"))])
STREAM = Stream(name="things", namespace="suite", schema=SCHEMA, primary_key=("id",))
MODES = list(WriteMode)
NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)


def row(id: int, name: str | None = "one") -> dict[str, Any]:
    return {"id": id, "name": name, "at": NOON}


def batch(rows: Sequence[dict[str, Any]], stream: Stream = STREAM, **rest: Any) -> Batch:
    return Batch(stream.id, pa.RecordBatch.from_pylist(list(rows), schema=stream.schema), **rest)


def token(sequence: int, epoch: int = 1, pipeline: str = "p") -> Token:
    return Token(pipeline=pipeline, epoch=epoch, sequence=sequence, position={"at": sequence, "text": "ä'\""})


def stage(
    target: Target[Any], mode: WriteMode, *batches: Batch, stream: Stream = STREAM, truncate: bool = False
) -> Staged:
    """Stage the batches by a writer of their own; the result has been through JSON."""
    target.prepare(stream, mode)
    writer = target.open(stream, mode, Slice(key="s", reads=(StreamRead(stream=stream),)))
    try:
        if truncate:
            writer.truncate()
        for one in batches:
            assert not writer.write(one)
        staged = writer.stage()
    finally:
        writer.close()
    assert staged.rows == sum(one.rows.num_rows for one in batches)
    return Staged.from_json(json.loads(json.dumps(staged.to_json())))


def put(target: Target[Any], mode: WriteMode, rows: Sequence[dict[str, Any]], sequence: int) -> None:
    target.publish(STREAM, mode, [stage(target, mode, batch(rows))], token(sequence))


def has(home: TargetHome, *rows: dict[str, Any], schema: pa.Schema = SCHEMA) -> bool:
    found = home.read("things", schema).to_pylist()
    return Counter(map(repr, found)) == Counter(
        repr(one) for one in pa.Table.from_pylist(list(rows), schema=schema).to_pylist()
    )


def needs(home: TargetHome, wanted: str) -> None:
    if Capability(wanted) not in catalog.connector(home.target[0]).capabilities:
        pytest.skip(f"{home.target[0]} does not declare {wanted}")


def a_mode(home: TargetHome) -> WriteMode:
    """Any mode that the target can do; what is tested with it holds for all."""
    return (
        WriteMode.APPEND
        if Capability.APPEND in catalog.connector(home.target[0]).capabilities
        else WriteMode.UPSERT
    )


def test_a_good_connection_passes_its_check(target: Target[Any]) -> None:
    target.check()


def test_a_bad_connection_is_told_with_a_remedy(target_home: TargetHome) -> None:
    broken = catalog.target(target_home.target[0], target_home.broken)
    with pytest.raises(HeadraceError) as raised:
        broken.check()
    broken.close()
    assert raised.value.remedy


@pytest.mark.parametrize("mode", MODES)
def test_rows_and_token_become_visible_together(
    target: Target[Any], target_home: TargetHome, mode: WriteMode
) -> None:
    needs(target_home, mode)
    assert target.committed(STREAM, "p") is None
    put(target, mode, [row(1)], 1)
    staged = [stage(target, mode, batch([row(2)])), stage(target, mode, batch([row(3, None)]))]
    assert has(target_home, row(1))
    assert target.committed(STREAM, "p") == token(1)
    target.publish(STREAM, mode, staged, token(2))
    kept = [] if mode is WriteMode.REPLACE else [row(1)]
    assert has(target_home, *kept, row(2), row(3, None))
    assert target.committed(STREAM, "p") == token(2)


@pytest.mark.parametrize("mode", MODES)
def test_the_same_publish_again_changes_nothing(
    target: Target[Any], target_home: TargetHome, mode: WriteMode
) -> None:
    needs(target_home, mode)
    staged = [stage(target, mode, batch([row(1)]))]
    target.publish(STREAM, mode, staged, token(1))
    target.publish(STREAM, mode, staged, token(1))
    assert has(target_home, row(1))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("old", [token(3, epoch=1), token(2, epoch=2), token(2, epoch=3)], ids=str)
def test_an_old_epoch_and_an_old_sequence_are_refused(
    target: Target[Any], target_home: TargetHome, mode: WriteMode, old: Token
) -> None:
    needs(target_home, mode)
    target.publish(STREAM, mode, [stage(target, mode, batch([row(1)]))], token(2, epoch=2))
    late = [stage(target, mode, batch([row(2)]))]
    if (old.epoch, old.sequence) == (2, 2):
        target.publish(STREAM, mode, late, old)
    else:
        with pytest.raises(Fenced):
            target.publish(STREAM, mode, late, old)
    assert has(target_home, row(1))
    assert target.committed(STREAM, "p") == token(2, epoch=2)


def test_what_another_target_staged_is_published_here(target: Target[Any], target_home: TargetHome) -> None:
    mode = a_mode(target_home)
    other = catalog.target(*target_home.target)
    staged = stage(other, mode, batch([row(1)]))
    other.close()
    target.publish(STREAM, mode, [staged], token(1))
    assert has(target_home, row(1))


def test_a_writer_that_is_closed_or_discarded_leaves_nothing_to_see(
    target: Target[Any], target_home: TargetHome
) -> None:
    mode = a_mode(target_home)
    put(target, mode, [row(1)], 1)
    writer = target.open(STREAM, mode, Slice(key="s", reads=(StreamRead(stream=STREAM),)))
    writer.write(batch([row(2)]))
    writer.close()
    writer.close()
    target.discard(STREAM, [stage(target, mode, batch([row(3)]))])
    put(target, mode, [row(4)], 2)
    assert has(target_home, row(1), row(4))


@pytest.mark.parametrize("mode", MODES)
def test_a_token_alone_can_be_published(
    target: Target[Any], target_home: TargetHome, mode: WriteMode
) -> None:
    needs(target_home, mode)
    put(target, mode, [row(1)], 1)
    target.publish(STREAM, mode, [], token(2))
    assert target.committed(STREAM, "p") == token(2)
    assert has(target_home, *([] if mode is WriteMode.REPLACE else [row(1)]))


def test_tokens_of_two_pipelines_do_not_touch(target: Target[Any], target_home: TargetHome) -> None:
    mode = a_mode(target_home)
    put(target, mode, [row(1)], 1)
    target.publish(STREAM, mode, [stage(target, mode, batch([row(2)]))], token(7, 4, "other"))
    put(target, mode, [row(3)], 2)
    assert target.committed(STREAM, "other") == token(7, 4, "other")
    assert has(target_home, row(1), row(2), row(3))


def test_replace_by_nothing_empties_the_table(target: Target[Any], target_home: TargetHome) -> None:
    needs(target_home, "replace")
    put(target, WriteMode.REPLACE, [row(1)], 1)
    target.publish(STREAM, WriteMode.REPLACE, [stage(target, WriteMode.REPLACE)], token(2))
    assert has(target_home)


def test_the_last_event_of_a_key_wins_within_and_across_what_was_staged(
    target: Target[Any], target_home: TargetHome
) -> None:
    needs(target_home, "upsert")
    put(target, WriteMode.UPSERT, [row(1), row(2), row(3)], 1)
    kinds = pa.array([Change.UPDATE, Change.DELETE, Change.INSERT, Change.DELETE, Change.INSERT], pa.int8())
    events = [row(1, "a"), row(2), row(4, "b"), row(4), row(5, "c")]
    staged = [
        stage(target, WriteMode.UPSERT, batch(events, changes=kinds)),
        stage(target, WriteMode.UPSERT, batch([row(1, "z"), row(2, "back")]), batch([row(5, "d")])),
    ]
    target.publish(STREAM, WriteMode.UPSERT, staged, token(2))
    assert has(target_home, row(1, "z"), row(2, "back"), row(3), row(5, "d"))


def test_a_row_without_its_key_is_rejected(target: Target[Any], target_home: TargetHome) -> None:
    needs(target_home, "upsert")
    target.prepare(STREAM, WriteMode.UPSERT)
    writer = target.open(STREAM, WriteMode.UPSERT, Slice(key="s", reads=(StreamRead(stream=STREAM),)))
    rejects = writer.write(batch([row(1), {"id": None, "name": "nobody", "at": NOON}]))
    staged = writer.stage()
    writer.close()
    assert len(rejects) == 1 and rejects[0].reason and rejects[0].where
    target.publish(STREAM, WriteMode.UPSERT, [staged], token(1))
    assert has(target_home, row(1))


@pytest.mark.parametrize("mode", [WriteMode.UPSERT, WriteMode.REPLACE])
def test_what_follows_a_truncate_comes_into_an_empty_table(
    target: Target[Any], target_home: TargetHome, mode: WriteMode
) -> None:
    needs(target_home, mode)
    put(target, mode, [row(1), row(2)], 1)
    staged = stage(target, mode, batch([row(3)]), truncate=True)
    assert staged.truncates
    target.publish(STREAM, mode, [staged], token(2))
    assert has(target_home, row(3))


def test_an_unchanged_cell_keeps_its_old_value(target: Target[Any], target_home: TargetHome) -> None:
    needs(target_home, "unchanged")
    put(target, WriteMode.UPSERT, [row(1, "old"), row(2, "old")], 1)
    update = batch(
        [{"id": 1, "at": NOON}, {"id": 2, "at": NOON}],
        changes=pa.array([Change.UPDATE, Change.UPDATE], pa.int8()),
        unchanged={"name": pa.array([True, False])},
    )
    target.publish(STREAM, WriteMode.UPSERT, [stage(target, WriteMode.UPSERT, update)], token(2))
    assert has(target_home, row(1, "old"), row(2, None))


def test_a_table_grows_with_its_stream(target: Target[Any], target_home: TargetHome) -> None:
    mode = a_mode(target_home)
    put(target, mode, [row(1)], 1)
    wide = replace(STREAM, schema=SCHEMA.append(pa.field("extra", pa.int32())))
    staged = stage(target, mode, batch([{**row(2), "extra": 5}], wide), stream=wide)
    target.publish(wide, mode, [staged], token(2))
    assert target.describe(wide) == target.image(wide)
    assert has(target_home, {**row(1), "extra": None}, {**row(2), "extra": 5}, schema=wide.schema)
    put(target, mode, [row(3)], 3)
    third = {**row(3), "extra": None}
    assert has(target_home, {**row(1), "extra": None}, {**row(2), "extra": 5}, third, schema=wide.schema)


def test_a_table_that_cannot_hold_the_stream_is_told_and_left_alone(
    target: Target[Any], target_home: TargetHome
) -> None:
    mode = a_mode(target_home)
    put(target, mode, [row(1)], 1)
    other = replace(STREAM, schema=pa.schema([("id", pa.int64()), ("name", pa.date32())]))
    with pytest.raises(ConfigError) as raised:
        target.prepare(other, mode)
    assert "name" in raised.value.message and raised.value.remedy
    assert has(target_home, row(1))


def test_nothing_is_described_where_nothing_is(target: Target[Any]) -> None:
    assert target.describe(STREAM) is None
    assert target.committed(STREAM, "p") is None


TYPES: list[tuple[pa.DataType, Any, Any]] = [
    (pa.bool_(), True, False),
    (pa.int8(), -128, 127),
    (pa.int16(), -32768, 32767),
    (pa.int32(), -(2**31), 2**31 - 1),
    (pa.int64(), -(2**63), 2**63 - 1),
    (pa.uint8(), 0, 255),
    (pa.uint32(), 0, 2**32 - 1),
    (pa.uint64(), 0, 2**64 - 1),
    (pa.float32(), 1.5, float("-inf")),
    (pa.float64(), 1e300, float("inf")),
    (pa.decimal128(12, 2), Decimal("-9999999999.99"), Decimal("0.01")),
    (pa.decimal128(38, 10), Decimal("1234567890123456789012345678.0123456789"), Decimal(0)),
    (pa.string(), "", 'ä "quoted"\n\t\\ ,;|😀'),
    (pa.large_string(), "x", "NULL"),
    (pa.binary(), b"", b"\x00\xff\\x"),
    (pa.date32(), dt.date(1887, 4, 1), dt.date(9999, 12, 31)),
    (pa.time64("us"), dt.time(0), dt.time(23, 59, 59, 999999)),
    (pa.timestamp("us"), dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31, 23, 59, 59, 999999)),
    (pa.timestamp("us", "UTC"), NOON, dt.datetime(1900, 1, 1, tzinfo=dt.UTC)),
    (pa.list_(pa.int64()), [1, None, 3], []),
    (pa.list_(pa.string()), ["a,b", '"', None, "", "NULL"], None),
]


@pytest.mark.parametrize(("kind", "first", "second"), TYPES, ids=[str(kind) for kind, _, _ in TYPES])
def test_values_of_every_type_come_back_as_its_image(
    target: Target[Any], target_home: TargetHome, kind: pa.DataType, first: Any, second: Any
) -> None:
    mode = a_mode(target_home)
    stream = replace(STREAM, schema=pa.schema([("id", pa.int64()), ("value", kind)]))
    image = target.image(stream)
    rows = [{"id": 1, "value": first}, {"id": 2, "value": second}, {"id": 3, "value": None}]
    staged = stage(target, mode, batch(rows, stream), stream=stream)
    assert target.describe(stream) in (image, None)  # None: a table that its first publish makes
    target.publish(stream, mode, [staged], token(1))
    assert target.describe(stream) == image
    found = target_home.read("things", image).sort_by("id")["value"].to_pylist()
    assert found == [first, second, None]


NAMES = ['with "quotes"', "with.dot", "with space", "Größe", "select", "UPPER and lower", "a'b;--"]


@pytest.mark.parametrize("name", NAMES)
def test_awkward_names_of_tables_and_columns_are_kept(
    target: Target[Any], target_home: TargetHome, name: str
) -> None:
    mode = a_mode(target_home)
    schema = pa.schema([("id", pa.int64()), (name, pa.string())])
    stream = Stream(name=name, namespace="suite", schema=schema, primary_key=("id",))
    staged = stage(target, mode, batch([{"id": 1, name: "x"}], stream), stream=stream)
    target.publish(stream, mode, [staged], token(1))
    assert target.committed(stream, "p") == token(1)
    description = target.describe(stream)
    assert description is not None and description.names == ["id", name]


def test_an_unknown_setting_is_refused_with_the_nearest_name(target_home: TargetHome) -> None:
    connector, settings = target_home.target
    name = next(iter(catalog.connector(connector).config.model_fields))
    with pytest.raises(ConfigError) as raised:
        catalog.target(connector, {**settings, name + "x": 1})
    assert raised.value.remedy and name in raised.value.remedy


def test_secrets_do_not_show(target: Target[Any], target_home: TargetHome) -> None:
    mode = a_mode(target_home)
    staged = stage(target, mode, batch([row(1)]))
    shown = repr(target.config) + repr(vars(target)) + json.dumps(staged.to_json())
    assert not any(secret in shown for secret in target_home.secrets)


def test_closing_twice_is_well(target: Target[Any]) -> None:
    target.describe(STREAM)
    target.close()
    target.close()
