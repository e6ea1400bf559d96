"""The PostgreSQL target on a real server: write modes, tokens, and what is left behind."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import psycopg
import pyarrow as pa
import pytest

from headrace.connector import Change, Slice, Stream, StreamRead
from headrace.connectors.postgres.target import PostgresTarget
from headrace.errors import AuthError, ConfigError, DataError, Fenced, NotFoundError
from tests.integration.postgres_target import (
    APPEND,
    REPLACE,
    UPSERT,
    batch,
    leftovers,
    load,
    orders,
    query,
    stage,
    table,
    target_at,
    token,
)

INSERT, UPDATE, DELETE = Change.INSERT, Change.UPDATE, Change.DELETE


@pytest.fixture
def target(postgres_url: str) -> Iterator[PostgresTarget]:
    with closing(target_at(postgres_url)) as opened:
        yield opened


def test_append_adds_rows_to_those_that_are_there(target: PostgresTarget, postgres_url: str) -> None:
    load(target, orders(), APPEND, [{"id": 1, "note": "a"}, {"id": 2, "note": None}])
    staged = load(target, orders(), APPEND, [{"id": 1, "note": ""}], 2)
    assert table(postgres_url, order="1, 2") == [(1, ""), (1, "a"), (2, None)]
    assert staged.rows == 1
    assert leftovers(postgres_url) == []


def test_rows_are_invisible_until_they_are_published(target: PostgresTarget, postgres_url: str) -> None:
    target.prepare(orders(), APPEND)
    staged, _ = stage(target, orders(), APPEND, batch(orders(), [{"id": 1, "note": "a"}]))
    assert table(postgres_url) == []
    assert target.committed(orders(), "p") is None
    with closing(target_at(postgres_url)) as elsewhere:  # all it needs is the plain description
        elsewhere.publish(orders(), APPEND, [type(staged).from_json(staged.to_json())], token())
    assert table(postgres_url) == [(1, "a")]


def test_replace_swaps_all_rows(target: PostgresTarget, postgres_url: str) -> None:
    load(target, orders(), REPLACE, [{"id": 1, "note": "old"}, {"id": 2, "note": "old"}])
    load(target, orders(), REPLACE, [{"id": 2, "note": "new"}], 2)
    assert table(postgres_url) == [(2, "new")]
    target.publish(orders(), REPLACE, [], token(3))
    assert table(postgres_url) == []


def test_a_reader_in_an_older_snapshot_sees_the_old_rows_after_a_replace(
    target: PostgresTarget, postgres_url: str
) -> None:
    load(target, orders(), REPLACE, [{"id": 1, "note": "old"}])
    with psycopg.connect(postgres_url) as reader:
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT 1")  # the snapshot is taken here, before the table is touched
        load(target, orders(), REPLACE, [{"id": 1, "note": "new"}], 2)
        assert reader.execute("SELECT * FROM orders").fetchall() == [(1, "old")]
    assert table(postgres_url) == [(1, "new")]


def test_upsert_updates_inserts_and_deletes_by_key(target: PostgresTarget, postgres_url: str) -> None:
    load(target, orders(), UPSERT, [{"id": n, "note": "old"} for n in (1, 2, 3)])
    events = batch(
        orders(),
        [{"id": 2, "note": "new"}, {"id": 3, "note": None}, {"id": 4, "note": "x"}, {"id": 9, "note": None}],
        [UPDATE, DELETE, INSERT, DELETE],
    )
    staged, _ = stage(target, orders(), UPSERT, events)
    target.publish(orders(), UPSERT, [staged], token(2))
    assert staged.rows == 4
    assert table(postgres_url) == [(1, "old"), (2, "new"), (4, "x")]
    assert leftovers(postgres_url) == []


def test_the_last_event_of_a_key_wins_across_batches_and_stages(
    target: PostgresTarget, postgres_url: str
) -> None:
    stream = orders()
    target.prepare(stream, UPSERT)
    one, _ = stage(
        target,
        stream,
        UPSERT,
        batch(stream, [{"id": 1, "note": "a"}, {"id": 1, "note": None}, {"id": 1, "note": "b"}], [0, 2, 0]),
        batch(stream, [{"id": 2, "note": "a"}, {"id": 2, "note": "b"}]),
        batch(stream, [{"id": 2, "note": "c"}, {"id": 3, "note": "a"}]),
    )
    two, _ = stage(target, stream, UPSERT, batch(stream, [{"id": 3, "note": None}], [2]))
    three, _ = stage(target, stream, UPSERT, batch(stream, [{"id": 2, "note": "d"}]))
    target.publish(stream, UPSERT, [one, two, three], token())
    assert table(postgres_url) == [(1, "b"), (2, "d")]


def test_composite_keys_of_text_and_number_are_exact(target: PostgresTarget, postgres_url: str) -> None:
    stream = Stream(
        name="orders",
        schema=pa.schema([("shop", pa.string()), ("id", pa.int32()), ("v", pa.int32())]),
        primary_key=("shop", "id"),
    )
    load(target, stream, UPSERT, [{"shop": s, "id": i, "v": 0} for s in "aA" for i in (1, 2)])
    events = batch(stream, [{"shop": "a", "id": 2, "v": 5}, {"shop": "A", "id": 1, "v": None}], [1, 2])
    staged, _ = stage(target, stream, UPSERT, events)
    target.publish(stream, UPSERT, [staged], token(2))
    assert table(postgres_url, order="1, 2") == [("A", 2, 0), ("a", 1, 0), ("a", 2, 5)]


def test_a_stream_of_nothing_but_its_key_can_be_upserted(target: PostgresTarget, postgres_url: str) -> None:
    stream = Stream(name="orders", schema=pa.schema([("id", pa.int64())]), primary_key=("id",))
    load(target, stream, UPSERT, [{"id": 1}])
    load(target, stream, UPSERT, [{"id": 1}, {"id": 2}], 2)
    assert table(postgres_url) == [(1,), (2,)]


def test_upsert_is_exact_where_no_index_makes_the_key_unique(
    target: PostgresTarget, postgres_url: str
) -> None:
    query(postgres_url, "CREATE TABLE orders (id bigint, note text, mine text)")
    query(
        postgres_url,
        "INSERT INTO orders VALUES (1,'a','x'), (1,'b','y'), (2,'a','z'), (3,'a','q'), (3,'b','q')",
    )
    target.prepare(orders(), UPSERT)
    events = batch(
        orders(),
        [{"id": 1, "note": "new"}, {"id": 3, "note": None}, {"id": 4, "note": "new"}],
        [UPDATE, DELETE, INSERT],
    )
    staged, _ = stage(target, orders(), UPSERT, events)
    target.publish(orders(), UPSERT, [staged], token())
    assert table(postgres_url) == [(1, "new", "x"), (2, "a", "z"), (4, "new", None)]
    assert query(postgres_url, "SELECT count(*) FROM pg_index WHERE indrelid = 'orders'::regclass") == [(0,)]


def test_a_table_of_ours_gets_a_unique_key_when_its_mode_becomes_upsert(
    target: PostgresTarget, postgres_url: str
) -> None:
    load(target, orders(), APPEND, [{"id": 1, "note": "a"}])
    load(target, orders(), UPSERT, [{"id": 1, "note": "b"}], 2)
    unique = "SELECT indisunique FROM pg_index WHERE indrelid = 'orders'::regclass"
    assert query(postgres_url, unique) == [(True,)]
    assert table(postgres_url) == [(1, "b")]


def test_a_table_of_ours_with_doubles_is_still_upserted_exactly(
    target: PostgresTarget, postgres_url: str
) -> None:
    load(target, orders(), APPEND, [{"id": 1, "note": "a"}, {"id": 1, "note": "a"}, {"id": 2, "note": "a"}])
    load(target, orders(), UPSERT, [{"id": 1, "note": "b"}], 2)
    assert table(postgres_url) == [(1, "b"), (2, "a")]


def test_an_upsert_does_not_touch_rows_that_refer_to_the_updated_one(
    target: PostgresTarget, postgres_url: str
) -> None:
    load(target, orders(), UPSERT, [{"id": 1, "note": "a"}])
    query(postgres_url, "CREATE TABLE lines (of bigint REFERENCES orders ON DELETE CASCADE)")
    query(postgres_url, "INSERT INTO lines VALUES (1)")
    load(target, orders(), UPSERT, [{"id": 1, "note": "b"}], 2)
    assert table(postgres_url, "lines") == [(1,)]


def test_unchanged_cells_keep_the_value_of_the_table(target: PostgresTarget, postgres_url: str) -> None:
    stream = orders(note=pa.string(), size=pa.list_(pa.int32()), n=pa.int32())
    old = [{"id": i, "note": f"long {i}", "size": [i], "n": 0} for i in (1, 2, 3)]
    load(target, stream, UPSERT, old)
    updates = [{"id": i, "note": None, "size": None, "n": 7} for i in (1, 2, 3)]
    masks = {"note": [True, False, True], "size": [True, True, False]}
    staged, _ = stage(target, stream, UPSERT, batch(stream, updates, [1, 1, 1], masks))
    target.publish(stream, UPSERT, [staged], token(2))
    assert table(postgres_url) == [(1, "long 1", [1], 7), (2, None, [2], 7), (3, "long 3", None, 7)]


def test_unchanged_cells_take_the_value_of_an_earlier_event_of_the_key(
    target: PostgresTarget, postgres_url: str
) -> None:
    stream = orders(note=pa.string(), more=pa.string(), n=pa.int32())
    load(target, stream, UPSERT, [{"id": 2, "note": "table", "more": "table", "n": 0}])
    first = batch(
        stream,
        [{"id": 1, "note": "born", "more": "m", "n": 1}, {"id": 2, "note": "second", "more": None, "n": 1}],
        [INSERT, UPDATE],
        {"more": [False, True]},
    )
    then = batch(
        stream, [{"id": 1, "n": 2}, {"id": 2, "n": 2}], [1, 1], {"note": [True, True], "more": [True, True]}
    )
    last = batch(stream, [{"id": 1, "n": 3}], [1], {"note": [True], "more": [False]})
    one, _ = stage(target, stream, UPSERT, first, then)
    two, _ = stage(target, stream, UPSERT, last)
    target.publish(stream, UPSERT, [one, two], token(2))
    assert table(postgres_url) == [(1, "born", None, 3), (2, "second", "table", 2)]
    assert leftovers(postgres_url) == []


def test_unchanged_cells_of_a_row_that_nobody_has_stop_the_publish(
    target: PostgresTarget, postgres_url: str
) -> None:
    load(target, orders(), UPSERT, [{"id": 1, "note": "kept"}])
    unknown = batch(orders(), [{"id": 5, "note": None}], [UPDATE], {"note": [True]})
    reborn = batch(orders(), [{"id": 1}, {"id": 1}], [DELETE, UPDATE], {"note": [False, True]})
    for events in (unknown, reborn):
        staged, _ = stage(target, orders(), UPSERT, events)
        with pytest.raises(DataError, match="1 updates") as caught:
            target.publish(orders(), UPSERT, [staged], token(2))
        assert caught.value.code == "postgres.unchanged_missing"
        target.discard(orders(), [staged])
    assert table(postgres_url) == [(1, "kept")]
    assert leftovers(postgres_url) == []


@pytest.mark.parametrize("indexed", [True, False])
def test_random_histories_end_as_if_played_one_by_one(
    target: PostgresTarget, postgres_url: str, indexed: bool
) -> None:
    """Inserts, updates with unchanged cells and deletes, cut into batches, stages and publishes."""
    stream = Stream(
        name="orders",
        schema=pa.schema([("k", pa.string()), ("id", pa.int32()), ("a", pa.string()), ("b", pa.int64())]),
        primary_key=("id", "k"),
    )
    if not indexed:
        query(postgres_url, "CREATE TABLE orders (k text, id int, a text, b bigint)")
    target.prepare(stream, UPSERT)
    dice = random.Random(7)
    model: dict[tuple[str, int], dict[str, Any]] = {}
    for sequence in range(1, 13):
        pieces = []
        for _ in range(dice.randint(1, 3)):
            batches = []
            for _ in range(dice.randint(1, 3)):
                events = [_event(dice, model) for _ in range(dice.randint(0, 15))]
                rows, changes = [row for row, _, _ in events], [change for _, change, _ in events]
                marks = {name: [name in left for _, _, left in events] for name in ("a", "b")}
                batches.append(batch(stream, rows, changes, marks))
            pieces.append(stage(target, stream, UPSERT, *batches)[0])
        target.publish(stream, UPSERT, pieces, token(sequence))
        expected = sorted((r["k"], r["id"], r["a"], r["b"]) for r in model.values())
        assert sorted(table(postgres_url)) == expected, f"publish {sequence}"


def _event(
    dice: random.Random, model: dict[tuple[str, int], dict[str, Any]]
) -> tuple[dict[str, Any], int, set[str]]:
    """The next event, played on the model: a row, what happened to it, its unchanged columns."""
    key = (dice.choice("xyz"), dice.randint(1, 4))
    row = {"k": key[0], "id": key[1], "a": f"{dice.random()}", "b": dice.choice([0, dice.randint(1, 99)])}
    old = model.get(key)
    if old is None:
        model[key] = row
        return row, INSERT, set()
    if dice.random() < 0.3:
        del model[key]
        return {"k": key[0], "id": key[1]}, DELETE, set()
    left = {name for name in ("a", "b") if dice.random() < 0.5}
    model[key] = {**row, **{name: old[name] for name in left}}
    return {**row, **dict.fromkeys(left)}, UPDATE, left


def test_append_refuses_cells_that_are_marked_unchanged(target: PostgresTarget) -> None:
    target.prepare(orders(), APPEND)
    with pytest.raises(ConfigError) as caught:
        stage(target, orders(), APPEND, batch(orders(), [{"id": 1}], [UPDATE], {"note": [True]}))
    assert caught.value.code == "postgres.unchanged"


def test_a_required_column_may_be_null_in_deletes_and_where_it_is_unchanged(
    target: PostgresTarget, postgres_url: str
) -> None:
    query(
        postgres_url,
        "CREATE TABLE orders (id bigint PRIMARY KEY, note text NOT NULL CHECK (note IS NOT NULL))",
    )
    load(target, orders(), UPSERT, [{"id": 1, "note": "a"}, {"id": 2, "note": "b"}])
    events = batch(
        orders(), [{"id": 1}, {"id": 2}, {"id": 3}], [DELETE, UPDATE, INSERT], {"note": [False, True, False]}
    )
    staged, rejects = stage(target, orders(), UPSERT, events)
    target.publish(orders(), UPSERT, [staged], token(2))
    assert table(postgres_url) == [(2, "b")]
    assert [(r.code, r.where["key"]) for r in rejects] == [("postgres.value.null", {"id": 3})]


def test_a_truncate_takes_effect_in_its_place(target: PostgresTarget, postgres_url: str) -> None:
    stream = orders()
    load(target, stream, UPSERT, [{"id": 1, "note": "old"}])
    before, _ = stage(target, stream, UPSERT, batch(stream, [{"id": 2, "note": "before"}]))
    with closing(target.open(stream, UPSERT, Slice(key="s", reads=(StreamRead(stream=stream),)))) as writer:
        writer.write(batch(stream, [{"id": 3, "note": "void"}]))
        writer.truncate()
        writer.write(batch(stream, [{"id": 4, "note": "after"}]))
        middle = writer.stage()
    after, _ = stage(target, stream, UPSERT, batch(stream, [{"id": 5, "note": "after"}]))
    assert (middle.rows, middle.truncates) == (1, True)
    target.publish(stream, UPSERT, [before, middle, after], token(2))
    assert table(postgres_url) == [(4, "after"), (5, "after")]
    assert leftovers(postgres_url) == []


def test_the_token_is_read_back_as_it_was_published(target: PostgresTarget) -> None:
    target.prepare(orders(), APPEND)
    position = {"at": {"lsn": "0/16B3748", "n": 1e22, "text": "\0 ü 😀", "deep": [None, True]}}
    written = replace(token(), position=position)
    target.publish(orders(), APPEND, [], written)
    assert target.committed(orders(), "p") == written
    assert target.committed(orders(), "another") is None
    assert target.committed(orders("elsewhere"), "p") is None


def test_the_same_token_again_changes_nothing(target: PostgresTarget, postgres_url: str) -> None:
    load(target, orders(), APPEND, [{"id": 1, "note": "a"}])
    again, _ = stage(target, orders(), APPEND, batch(orders(), [{"id": 1, "note": "a"}]))
    target.publish(orders(), APPEND, [again], token(1))
    target.publish(orders(), APPEND, [again], token(1))
    assert table(postgres_url) == [(1, "a")]
    assert leftovers(postgres_url) == []


@pytest.mark.parametrize("late", [token(2, epoch=4), token(1, epoch=5), token(1, epoch=6)])
def test_an_older_epoch_is_fenced(target: PostgresTarget, postgres_url: str, late: object) -> None:
    target.prepare(orders(), APPEND)
    target.publish(orders(), APPEND, [], token(2, epoch=5))
    staged, _ = stage(target, orders(), APPEND, batch(orders(), [{"id": 1, "note": "zombie"}]))
    with pytest.raises(Fenced):
        target.publish(orders(), APPEND, [staged], late)  # type: ignore[arg-type]
    assert table(postgres_url) == []
    assert target.committed(orders(), "p") == token(2, epoch=5)
    target.publish(orders(), APPEND, [staged], token(3, epoch=6))  # what was staged is still good
    assert table(postgres_url) == [(1, "zombie")]


def test_two_pipelines_share_a_table_and_keep_their_own_tokens(
    target: PostgresTarget, postgres_url: str
) -> None:
    for number, pipeline in itertools.product((1, 2), ("p", "q")):
        target.prepare(orders(), UPSERT)
        staged, _ = stage(target, orders(), UPSERT, batch(orders(), [{"id": number, "note": pipeline}]))
        target.publish(orders(), UPSERT, [staged], token(number, pipeline=pipeline))
    assert target.committed(orders(), "p") == token(2)
    assert target.committed(orders(), "q") == token(2, pipeline="q")
    assert table(postgres_url) == [(1, "q"), (2, "q")]


def test_a_table_that_was_dropped_starts_again_from_nothing(
    target: PostgresTarget, postgres_url: str
) -> None:
    load(target, orders(), APPEND, [{"id": 1, "note": "a"}], 7)
    query(postgres_url, "DROP TABLE orders")
    assert target.committed(orders(), "p") is None
    with pytest.raises(NotFoundError):
        target.publish(orders(), APPEND, [], token(8))
    load(target, orders(), APPEND, [{"id": 1, "note": "b"}], 1)
    assert table(postgres_url) == [(1, "b")]
    assert target.committed(orders(), "p") == token(1)


def test_a_stream_without_rows_makes_an_empty_table(target: PostgresTarget, postgres_url: str) -> None:
    staged = load(target, orders(), APPEND, [])
    assert (staged.rows, staged.detail) == (0, {})
    assert table(postgres_url) == []
    assert target.committed(orders(), "p") == token()


def test_a_writer_that_is_closed_unstaged_leaves_nothing(target: PostgresTarget, postgres_url: str) -> None:
    target.prepare(orders(), APPEND)
    with closing(target.open(orders(), APPEND, Slice(key="s", reads=()))) as writer:
        writer.write(batch(orders(), [{"id": 1, "note": "a"}]))
    writer.close()
    assert leftovers(postgres_url) == []


def test_staging_tables_that_nobody_will_publish_are_swept(target: PostgresTarget, postgres_url: str) -> None:
    target.prepare(orders(), APPEND)
    rows = batch(orders(), [{"id": 1, "note": "a"}])
    old, young = (stage(target, orders(), APPEND, rows)[0].detail["table"] for _ in range(2))
    query(postgres_url, "CREATE TABLE _headrace_stage_of_a_user (id int)")
    query(postgres_url, f"COMMENT ON TABLE {old} IS '2001-01-01T00:00:00+00:00'")
    target.prepare(orders(), APPEND)
    assert sorted(leftovers(postgres_url)) == sorted([young, "_headrace_stage_of_a_user"])


def test_check_names_a_missing_right_and_what_to_grant(postgres_url: str) -> None:
    role = f"reader_of_{postgres_url.rpartition('/')[2]}"
    query(postgres_url, f"CREATE ROLE {role} LOGIN PASSWORD 'secret-word'")
    query(postgres_url, "CREATE SCHEMA shut")
    query(postgres_url, f"CREATE SCHEMA half; GRANT USAGE ON SCHEMA half TO {role}")
    denied = "postgres.schema_denied"
    try:
        for schema, code in (("shut", denied), ("half", denied), ("none", "postgres.database_denied")):
            with (
                closing(
                    target_at(postgres_url, username=role, password="secret-word", schema=schema)
                ) as target,
                pytest.raises(AuthError) as caught,
            ):
                target.check()
            assert (caught.value.code, caught.value.field) == (code, "schema")
            assert caught.value.remedy
    finally:
        query(postgres_url, f"DROP OWNED BY {role}; DROP ROLE {role}")
    with closing(target_at(postgres_url, schema="made later")) as target:
        target.check()


def test_check_refuses_a_server_that_takes_no_writes(target: PostgresTarget, postgres_url: str) -> None:
    target.check()
    database = postgres_url.rpartition("/")[2]
    query(postgres_url, f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    with closing(target_at(postgres_url)) as another, pytest.raises(ConfigError) as caught:
        another.check()
    assert caught.value.code == "postgres.read_only"


@pytest.mark.parametrize(
    ("namespace", "name", "column"),
    [
        ('sch"ema; DROP', 'a"; drop table x;--', 'c"ol'),
        ("a.b", "my.table", "or.der"),
        ("Mixed Case", "SELECT", "user"),
        ("ünï", "表", "列 1"),
        ("s" * 300, "é" * 300, "c" * 300),
        ("percent%s", "t%(x)s{}", "100% {0}"),
    ],
)
def test_awkward_names_are_names(
    target: PostgresTarget, postgres_url: str, namespace: str, name: str, column: str
) -> None:
    schema = pa.schema([(column, pa.int64()), (column + "2", pa.string()), ("x", pa.string())])
    stream = Stream(namespace=namespace, name=name, schema=schema, primary_key=(column,))
    for sequence, mode in enumerate((APPEND, UPSERT, REPLACE), 1):
        load(target, stream, mode, [{column: 1, column + "2": f"{mode}"}, {column: 2}], sequence)
    gone = batch(stream, [{column: 1}, {column: 2}], [UPDATE, DELETE], {column + "2": [True, False]})
    staged, _ = stage(target, stream, UPSERT, gone)
    target.publish(stream, UPSERT, [staged], token(4))
    assert target.committed(stream, "p") == token(4)
    assert target.describe(stream) == target.image(stream) == stream.schema
    found = query(
        postgres_url,
        "SELECT nspname, relname, octet_length(relname) FROM pg_class c "
        "JOIN pg_namespace n ON n.oid = relnamespace WHERE relkind = 'r' "
        "AND relname NOT LIKE '\\_headrace%' AND nspname NOT LIKE 'pg\\_%' "
        "AND nspname <> 'information_schema'",
    )
    assert len(found) == 1
    if len(name.encode()) <= 63:
        assert found[0][:2] == (namespace, name)
    else:
        assert found[0][2] <= 63


def test_long_names_that_begin_alike_stay_apart(target: PostgresTarget, postgres_url: str) -> None:
    for number in (1, 2):
        load(target, orders("x" * 100 + str(number)), APPEND, [{"id": number, "note": None}])
    names = query(postgres_url, "SELECT relname FROM pg_class WHERE relname LIKE 'xxx%' AND relkind = 'r'")
    assert len(names) == 2
    assert sorted(row[0] for (name,) in names for row in table(postgres_url, name)) == [1, 2]
