"""What every source must do, for each mode that it declares."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from headrace import catalog
from headrace.connector import (
    Batch,
    Capability,
    Checkpoint,
    Position,
    ReadMode,
    Selection,
    Slice,
    Source,
    Stream,
    StreamRead,
)
from headrace.errors import ConfigError, HeadraceError
from tests.conformance.conftest import open_source
from tests.conformance.homes import Rows, SourceHome
from tests.waiting import HANGS, until


def find(source: Source[Any], id: str) -> Stream:
    (stream,) = [s for s in source.discover(Selection(include=(id,))) if s.id == id]
    return stream


def reading(source: Source[Any], home: SourceHome, mode: ReadMode) -> StreamRead:
    cursor = home.cursor if mode is ReadMode.INCREMENTAL else None
    return StreamRead(stream=find(source, home.stream), mode=mode, cursor=cursor)


def read(source: Source[Any], slice: Slice, since: Position) -> tuple[Rows, Position | None]:
    """All rows of the slice, and the last position that it gave."""
    rows: Rows = []
    position: Position | None = None
    for event in source.read(slice, since):
        if isinstance(event, Batch):
            assert event.stream == slice.read.stream.id
            assert event.rows.schema.equals(slice.read.stream.schema), "a batch has the stream's schema"
            assert not event.rejects
            rows += event.rows.to_pylist()
        elif isinstance(event, Checkpoint):
            json.dumps(event.position)
            position = event.position
    return rows, position


def multiset(rows: Rows) -> Counter[str]:
    return Counter(repr(sorted((name, _plain(value)) for name, value in row.items())) for row in rows)


def _plain(value: Any) -> Any:
    """Two drivers name the same zone in two ways."""
    return value.astimezone(UTC) if isinstance(value, datetime) and value.tzinfo else value


def run(home: SourceHome, mode: ReadMode, since: Mapping[str, Position]) -> tuple[Rows, Position]:
    """One whole run by a source of its own, from `since`; the rows and where the stream then stands."""
    source = open_source(home)
    try:
        rows: Rows = []
        position = since.get(home.stream, {})
        for slice in list(source.slices([reading(source, home, mode)], since)):
            got, last = read(source, slice, {} if slice.until is not None else position)
            rows += got
            position = slice.until if slice.until is not None else (last or position)
        return rows, json.loads(json.dumps(position))
    finally:
        source.close()


def needs(home: SourceHome, capability: Capability) -> None:
    if capability not in catalog.connector(home.connector).capabilities:
        pytest.skip(f"{home.connector} does not declare {capability}")


def test_a_good_connection_passes_its_check(source: Source[Any]) -> None:
    source.check()


def test_it_says_which_connection_setting_is_wrong(source_home: SourceHome) -> None:
    assert source_home.broken
    source = catalog.source(source_home.connector, source_home.broken)
    with pytest.raises(HeadraceError) as raised:
        source.check()
    source.close()
    assert raised.value.remedy and raised.value.code.count(".")


def test_streams_are_found_in_a_stable_order_with_a_schema(source: Source[Any]) -> None:
    first, second = ([stream.to_json() for stream in source.discover()] for _ in range(2))
    assert first == second
    names = [Stream.from_json(data).id for data in first]
    assert names and len(set(names)) == len(names)
    assert all(Stream.from_json(data).schema.names for data in first)


def test_a_selection_narrows_what_is_found(source: Source[Any], source_home: SourceHome) -> None:
    assert [s.id for s in source.discover(Selection(include=(source_home.stream,)))] == [source_home.stream]
    left = [s.id for s in source.discover(Selection(exclude=(source_home.stream,)))]
    assert source_home.stream not in left


def test_a_full_read_brings_every_row_once(source_home: SourceHome) -> None:
    rows, _ = run(source_home, ReadMode.FULL, {})
    assert multiset(rows) == multiset(source_home.rows())


def test_slices_are_plain_data_that_another_source_can_read(source_home: SourceHome) -> None:
    planner, reader = open_source(source_home), open_source(source_home)
    try:
        slices = list(planner.slices([reading(planner, source_home, ReadMode.FULL)], {}))
        assert len({slice.key for slice in slices}) == len(slices)
        rows: Rows = []
        for slice in slices:
            text = json.dumps(slice.to_json())
            assert not any(secret in text for secret in source_home.secrets)
            rows += read(reader, Slice.from_json(json.loads(text)), {})[0]
        assert multiset(rows) == multiset(source_home.rows())
    finally:
        planner.close()
        reader.close()


def test_slices_can_be_read_from_several_threads(source: Source[Any], source_home: SourceHome) -> None:
    slices = list(source.slices([reading(source, source_home, ReadMode.FULL)], {}))
    parts: list[Rows] = [[] for _ in slices]

    def work(at: int) -> None:
        parts[at] = read(source, slices[at], {})[0]

    threads = [threading.Thread(target=work, args=(at,)) for at in range(len(slices))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert multiset([row for part in parts for row in part]) == multiset(source_home.rows())


def test_a_slice_that_nothing_touched_holds(source_home: SourceHome) -> None:
    needs(source_home, Capability.RESUME)
    first, second = open_source(source_home), open_source(source_home)
    try:
        slices = list(first.slices([reading(first, source_home, ReadMode.FULL)], {}))
        counts = {slice.key: len(read(first, slice, {})[0]) for slice in slices}
        first.close()
        again = list(second.slices([reading(second, source_home, ReadMode.FULL)], {}))
        assert [slice.key for slice in again] == [slice.key for slice in slices]
        for slice in slices:
            assert second.holds(slice, counts[slice.key])
    finally:
        first.close()
        second.close()


def test_an_incremental_read_brings_all_then_nothing_then_only_what_is_new(source_home: SourceHome) -> None:
    needs(source_home, Capability.INCREMENTAL)
    before = source_home.rows()
    rows, position = run(source_home, ReadMode.INCREMENTAL, {})
    assert multiset(rows) == multiset(before)
    rows, position = run(source_home, ReadMode.INCREMENTAL, {source_home.stream: position})
    assert rows == []
    source_home.add()
    rows, position = run(source_home, ReadMode.INCREMENTAL, {source_home.stream: position})
    assert multiset(rows) == multiset(source_home.rows()) - multiset(before)
    assert rows


def test_positions_have_an_order_that_grows(source_home: SourceHome) -> None:
    needs(source_home, Capability.INCREMENTAL)
    _, first = run(source_home, ReadMode.INCREMENTAL, {})
    source_home.add()
    _, second = run(source_home, ReadMode.INCREMENTAL, {source_home.stream: first})
    source = open_source(source_home)
    assert source.order(first) < source.order(second)
    assert source.order(second) == source.order(second)
    source.close()


def test_a_blocked_read_ends_soon_after_an_interrupt(source_home: SourceHome) -> None:
    if source_home.slow_stream is None:
        pytest.skip(f"{source_home.connector} has nothing to be slow at")
    source = catalog.source(source_home.connector, source_home.slow or source_home.settings)
    slices = list(source.slices([StreamRead(stream=find(source, source_home.slow_stream))], {}))
    began, ended = threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        try:
            for _ in source.read(slices[0], {}):
                pass
        except HeadraceError:
            pass
        ended.set()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert began.wait(HANGS)
    until(source_home.blocked, "a read that is blocked")
    assert not ended.is_set()
    source.interrupt()
    assert ended.wait(HANGS)  # it would go on for longer than that
    source.close()


def test_closing_twice_is_well(source: Source[Any]) -> None:
    list(source.discover())
    source.close()
    source.close()


def test_an_unknown_setting_is_refused_with_the_nearest_name(source_home: SourceHome) -> None:
    config = catalog.connector(source_home.connector).config
    name = next(iter(config.model_fields))
    with pytest.raises(ConfigError) as raised:
        catalog.source(source_home.connector, {**source_home.settings, name + "x": 1})
    assert raised.value.code == "config.unknown_setting"
    assert raised.value.remedy and name in raised.value.remedy


def test_secrets_do_not_show(source: Source[Any], source_home: SourceHome) -> None:
    shown = repr(source.config) + str(source.config) + repr(vars(source)) + source.config.model_dump_json()
    assert not any(secret in shown for secret in source_home.secrets)
