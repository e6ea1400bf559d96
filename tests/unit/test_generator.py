"""The generator: the same seed gives the same rows, and its log of changes leads to its final rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from headrace.connector import Batch, Change, Checkpoint, ReadMode, Slice, StreamRead
from headrace.connectors.generator import STREAMS, GeneratorConfig
from headrace.connectors.generator.changes import final_rows, load_rows
from headrace.connectors.generator.source import GeneratorSource
from headrace.connectors.generator.tables import TABLES
from headrace.errors import ConfigError, PositionLost, TransientError


def source(**settings: Any) -> GeneratorSource:
    return GeneratorSource(GeneratorConfig.parse({"rows": 1000, "seed": 7, "batch_rows": 90, **settings}))


def plan(generator: GeneratorSource, mode: ReadMode, since: dict[str, Any] | None = None) -> list[Slice]:
    (stream,) = [s for s in generator.discover() if s.name == "orders"]
    return list(generator.slices([StreamRead(stream=stream, mode=mode)], {"orders": since} if since else {}))


def rows_of(events: list[Any]) -> pa.Table:
    return pa.Table.from_batches([e.rows for e in events if isinstance(e, Batch)], TABLES["orders"].schema)


def replay(table: dict[int, Any], events: list[Any]) -> dict[int, Any]:
    """What a careful reader of the log makes of it; an event that can't happen is an error."""
    for event in events:
        if not isinstance(event, Batch):
            continue
        assert event.changes is not None
        for row, change in zip(event.rows.to_pylist(), event.changes.to_pylist(), strict=True):
            assert (change == Change.INSERT) == (row["id"] not in table)
            if change == Change.DELETE:
                del table[row["id"]]
            else:
                table[row["id"]] = row
    return table


def comparable(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(repr(row) for row in rows)


@pytest.mark.parametrize("stream", STREAMS)
def test_the_same_seed_gives_the_same_rows_however_they_are_cut(stream: str) -> None:
    whole = load_rows(GeneratorConfig(rows=500, seed=3), stream)
    generator = source(streams=[stream], seed=3, rows=500, slices=3, batch_rows=7)
    (found,) = generator.discover()
    slices = list(generator.slices([StreamRead(stream=found)], {}))
    parts = [e.rows for s in slices for e in generator.read(s, {}) if isinstance(e, Batch)]
    assert repr(pa.Table.from_batches(parts).to_pylist()) == repr(whole.to_pylist())
    assert not whole.equals(load_rows(GeneratorConfig(rows=500, seed=4), stream))


@pytest.mark.parametrize("stream", STREAMS)
def test_keys_are_unique_and_the_awkward_values_occur(stream: str) -> None:
    rows = load_rows(GeneratorConfig(rows=2000), stream)
    keys = rows.select(TABLES[stream].primary_key).to_pylist()
    assert len({tuple(key.values()) for key in keys}) == 2000
    text = "".join(str(v) for row in rows.to_pylist() for v in row.values() if isinstance(v, str))
    assert any(ord(c) > 255 for c in text)
    assert sum(column.null_count for column in rows.columns) > 0
    if stream in ("orders", "events"):
        doubles = rows["discount" if stream == "orders" else "score"].to_pylist()
        assert any(v is not None and math.isnan(v) for v in doubles)


def test_the_log_of_changes_leads_from_the_load_to_the_final_rows() -> None:
    generator = source(changes=3000, checkpoint_every=400)
    loaded = {
        row["id"]: row
        for s in plan(generator, ReadMode.CHANGES)
        for row in rows_of(list(generator.read(s, {}))).to_pylist()
    }
    (log,) = plan(generator, ReadMode.CHANGES, {"event": 0})
    final = replay(loaded, list(generator.read(log, {"event": 0})))
    expected = final_rows(generator.config, "orders", 3000)
    assert comparable(list(final.values())) == comparable(expected.to_pylist())


@pytest.mark.parametrize("rows", [0, 1])
def test_a_log_over_hardly_any_rows_is_possible_too(rows: int) -> None:
    generator = source(rows=rows, changes=200)
    loaded = {row["id"]: row for row in load_rows(generator.config, "orders").to_pylist()}
    (log,) = plan(generator, ReadMode.CHANGES, {"event": 0})
    final = replay(loaded, list(generator.read(log, {"event": 0})))
    assert comparable(list(final.values())) == comparable(
        final_rows(generator.config, "orders", 200).to_pylist()
    )


def test_a_load_that_is_cut_in_another_way_has_other_slices() -> None:
    few, many = plan(source(slices=2), ReadMode.FULL), plan(source(slices=4), ReadMode.FULL)
    assert not {slice.key for slice in few} & {slice.key for slice in many}
    assert [s.key for s in plan(source(slices=2), ReadMode.FULL)] == [s.key for s in few]


def test_the_log_continues_from_every_checkpoint_as_if_it_had_never_stopped() -> None:
    generator = source(changes=1000, checkpoint_every=150)
    (log,) = plan(generator, ReadMode.CHANGES, {"event": 0})
    whole = list(generator.read(log, {"event": 0}))
    positions = [e.position for e in whole if isinstance(e, Checkpoint)]
    assert positions == [{"event": n} for n in (150, 300, 450, 600, 750, 900, 1000)]
    for position in positions:
        rest = rows_of(list(generator.read(log, position)))
        assert repr(rest.to_pylist()) == repr(rows_of(whole).slice(position["event"]).to_pylist())


def test_more_changes_leave_the_earlier_ones_as_they_were() -> None:
    short, long = source(changes=100), source(changes=900)
    (log,) = plan(short, ReadMode.CHANGES, {"event": 0})
    first, all = (rows_of(list(g.read(log, {"event": 0}))) for g in (short, long))
    assert repr(first.to_pylist()) == repr(all.slice(0, 100).to_pylist())


def test_an_incremental_read_gives_only_the_rows_that_were_added() -> None:
    slices = plan(source(), ReadMode.INCREMENTAL)
    assert {str(s.until) for s in slices} == {"{'row': 1000}"}
    grown = source(rows=1500, checkpoint_every=200)
    (more,) = plan(grown, ReadMode.INCREMENTAL, {"row": 1000})
    events = list(grown.read(more, {"row": 1000}))
    assert rows_of(events)["id"].to_pylist() == list(range(1001, 1501))
    assert events[-1] == Checkpoint({"row": 1500})


def test_a_position_past_the_end_is_lost() -> None:
    with pytest.raises(PositionLost) as lost:
        plan(source(changes=10), ReadMode.CHANGES, {"event": 11})
    assert lost.value.code == "generator.position_lost"
    with pytest.raises(PositionLost):
        plan(source(), ReadMode.CHANGES, {"row": 5})


def test_a_slice_holds_only_while_it_reads_the_same() -> None:
    generator = source(slices=2)
    first, second = plan(generator, ReadMode.FULL)
    assert generator.holds(first, 500) and generator.holds(second, 500)
    assert not generator.holds(second, 499)
    assert not source(seed=8).holds(second, 500)
    assert not source(rows=900).holds(second, 500)


def test_only_the_chosen_columns_are_read() -> None:
    generator = source()
    (slice, *_) = plan(generator, ReadMode.FULL)
    data = slice.to_json()
    stream = next(iter(generator.discover()))
    assert Slice.from_json(data) == slice
    chosen = StreamRead(stream=type(stream)(name="orders", schema=pa.schema([("note", pa.string())])))
    (part, *_) = generator.slices([chosen], {})
    (batch, *_) = generator.read(part, {})
    assert isinstance(batch, Batch) and batch.rows.schema.names == ["note"]


def test_an_interrupt_ends_a_read_that_waits() -> None:
    generator = source(delay=5)
    (slice, *_) = plan(generator, ReadMode.FULL)
    generator.interrupt()
    with pytest.raises(TransientError):
        list(generator.read(slice, {}))


def test_the_address_names_streams_and_settings() -> None:
    raw = GeneratorConfig.from_url("generator:orders,events?rows=12&seed=7")
    config = GeneratorConfig.parse(raw)
    assert (config.streams, config.rows, config.seed) == (("orders", "events"), 12, 7)
    assert GeneratorConfig.parse(GeneratorConfig.from_url("generator:")).streams == STREAMS


@pytest.mark.parametrize(
    "url", ["generator:order", "generator:orders?row=3", "generator:orders?rows=-1", "generator://orders"]
)
def test_a_wrong_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        GeneratorConfig.parse(GeneratorConfig.from_url(url))


def test_a_row_does_not_depend_on_its_neighbours_across_seeds() -> None:
    """Row n of one seed must not be row n + 1 of the next."""
    one, two = (
        load_rows(GeneratorConfig(rows=50, seed=s), "orders")["placed_at"].to_pylist() for s in (1, 2)
    )
    assert not set(one) & set(two)
    assert len(np.unique(one)) == 50
