from __future__ import annotations

import base64
import secrets
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from headrace.connector import HIDDEN
from headrace.errors import ConfigError, ConflictError, HeadraceError, NotFoundError
from headrace.model.connection import Connection
from headrace.model.pipeline import Pipeline, SchemaPolicy, StreamChoice, TransformStep, Tuning, WriteMode
from headrace.model.stream import ReadMode
from headrace.store import MasterKeys, Store
from tests.integration.store_samples import GONE, MINUTE, save_pipeline, started

CANARY = "canary-5f2b8c91"
POSTGRES = Connection(
    id="c1",
    name="shop",
    connector="postgres",
    settings={"host": "db", "ssh": {"host": "gate"}},
    extras={"olake": {"kept": [1, None]}},
)


def keys(*texts: str) -> MasterKeys:
    return MasterKeys.load(Path("/nowhere"), {"HEADRACE_MASTER_KEY": ",".join(texts)})


def new_key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


def dump(url: str) -> str:
    """Everything that the database holds, as text."""
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    metadata = sa.MetaData()
    with engine.connect() as connection:
        metadata.reflect(connection)
        rows = [row for table in metadata.sorted_tables for row in connection.execute(table.select())]
    engine.dispose()
    return repr([[bytes(v) if isinstance(v, memoryview) else v for v in row] for row in rows])


def test_a_connection_comes_back_as_it_was_saved(store: Store) -> None:
    saved = store.connections.save(POSTGRES)
    assert saved == replace(POSTGRES, version=1)
    assert store.connections.get("c1") == saved
    assert store.connections.by_name("shop") == saved
    assert store.connections.list() == [saved]


def test_secrets_go_back_to_their_places_in_the_settings_only(store: Store) -> None:
    saved = store.connections.save(POSTGRES, {"password": "p", "ssh.password": "q", "tls.key": "r"})
    assert saved.secrets == ("password", "ssh.password", "tls.key")
    assert saved.settings == POSTGRES.settings
    assert store.connections.get("c1") == saved == store.connections.list()[0]
    assert store.connections.settings("c1") == {
        "host": "db",
        "password": "p",
        "ssh": {"host": "gate", "password": "q"},
        "tls": {"key": "r"},
    }


def test_a_secret_is_kept_by_name_or_by_the_hidden_mark_and_else_forgotten(store: Store) -> None:
    saved = store.connections.save(POSTGRES, {"a": "1", "b": "2", "c": "3", "d": "4"})
    saved = store.connections.save(replace(saved, secrets=("a", "b")), {"b": "new", "c": HIDDEN})
    assert saved.secrets == ("a", "b", "c")
    settings = store.connections.settings("c1")
    assert {name: settings.get(name) for name in "abcd"} == {"a": "1", "b": "new", "c": "3", "d": None}


def test_a_secret_to_keep_must_be_there(store: Store) -> None:
    with pytest.raises(ConfigError) as raised:
        store.connections.save(POSTGRES, {"password": HIDDEN})
    assert (raised.value.code, raised.value.field) == ("store.no_secret", "password")
    assert store.connections.list() == []


def test_a_secret_left_in_the_settings_is_refused(store: Store) -> None:
    for settings in ({"ssh": {"password": CANARY}}, {"ssh": {"password": HIDDEN}}):
        with pytest.raises(ConfigError) as raised:
            store.connections.save(replace(POSTGRES, settings=settings), {"ssh.password": "x"})
        assert raised.value.code == "store.secret_in_settings"
        assert CANARY not in str(raised.value.as_dict())


def test_of_two_changes_to_one_version_the_second_is_refused(store: Store) -> None:
    first = store.connections.save(POSTGRES, {"password": "old"})
    store.connections.save(replace(first, name="market"))
    with pytest.raises(ConflictError) as raised:
        store.connections.save(replace(first, name="bazaar"), {"password": "new"})
    assert raised.value.code == "store.changed"
    assert store.connections.get("c1").name == "market"
    assert store.connections.settings("c1")["password"] == "old"


def test_of_many_changes_at_once_one_wins(store: Store) -> None:
    first = store.connections.save(POSTGRES)
    won: list[str] = []

    def change(name: str) -> None:
        try:
            won.append(store.connections.save(replace(first, name=name)).name)
        except ConflictError as error:
            assert error.code == "store.changed"

    threads = [threading.Thread(target=change, args=(f"n{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won == [store.connections.get("c1").name]


def test_a_new_connection_takes_no_known_id_and_any_name(store: Store) -> None:
    store.connections.save(POSTGRES)
    with pytest.raises(ConflictError) as raised:
        store.connections.save(replace(POSTGRES, name="other"))
    assert raised.value.code == "store.changed"
    other = store.connections.save(replace(POSTGRES, id="c2", name="name"))
    assert store.connections.by_name("name") == other
    store.connections.save(replace(other, name="shop"))
    with pytest.raises(ConflictError) as raised:
        store.connections.by_name("shop")
    assert raised.value.code == "store.ambiguous"


def test_what_is_not_there_is_not_found(store: Store) -> None:
    calls = [
        lambda: store.connections.get("x"),
        lambda: store.connections.by_name("x"),
        lambda: store.connections.settings("x"),
        lambda: store.connections.delete("x"),
        lambda: store.pipelines.get("x"),
        lambda: store.pipelines.by_name("x"),
        lambda: store.pipelines.delete("x"),
        lambda: store.runs.get("x"),
        lambda: store.runs.queue("x"),
        lambda: store.runs.requeue("x"),
        lambda: store.leases.acquire("x", "w", MINUTE),
    ]
    for call in calls:
        with pytest.raises(NotFoundError):
            call()


def test_a_connection_in_use_is_not_deleted(store: Store) -> None:
    save_pipeline(store)
    with pytest.raises(ConflictError) as raised:
        store.connections.delete("here")
    assert raised.value.code == "store.in_use"
    store.pipelines.delete("p1")
    store.connections.delete("here")
    assert [c.name for c in store.connections.list()] == ["there"]


def test_a_deleted_connection_takes_its_secrets_along(store: Store, store_url: str) -> None:
    store.connections.save(POSTGRES, {"password": "p"})
    store.connections.delete("c1")
    assert "password" not in dump(store_url)
    assert store.connections.save(POSTGRES).secrets == ()


def test_a_pipeline_comes_back_as_it_was_saved(store: Store) -> None:
    pipeline = save_pipeline(store)
    assert pipeline.version == 1
    full = replace(
        pipeline,
        streams=(
            StreamChoice(
                stream='public."a.b"', read=ReadMode.INCREMENTAL, write=WriteMode.UPSERT, cursor="at"
            ),
            *pipeline.streams,
        ),
        transforms=(TransformStep(name="hash", settings={"columns": ["mail"]}, streams=("a*",)),),
        schema_policy=SchemaPolicy.PAUSE,
        tuning=Tuning(parallelism=7, reject_limit=None),
        paused=True,
        extras={"popsink": {"x": 1}},
    )
    saved = store.pipelines.save(full)
    assert saved == replace(full, version=2)
    assert store.pipelines.get("p1") == store.pipelines.by_name(full.name) == saved
    assert store.pipelines.list() == [saved]


def test_a_pipeline_is_saved_over_the_version_it_was_read_at(store: Store) -> None:
    first = save_pipeline(store)
    store.pipelines.save(replace(first, paused=True))
    with pytest.raises(ConflictError) as raised:
        store.pipelines.save(first)
    assert raised.value.code == "store.changed"
    with pytest.raises(ConflictError) as raised:
        store.pipelines.save(replace(first, version=0))
    assert raised.value.code == "store.changed"
    store.pipelines.save(replace(first, id="p2", version=0))
    with pytest.raises(ConflictError) as raised:
        store.pipelines.by_name(first.name)
    assert raised.value.code == "store.ambiguous"
    with pytest.raises(NotFoundError) as missing:
        store.pipelines.save(Pipeline(id="p3", name="x", source="here", target="nowhere", streams=()))
    assert missing.value.code == "store.no_connection"


def test_a_pipeline_that_is_worked_on_is_not_deleted(store: Store) -> None:
    save_pipeline(store)
    store.leases.acquire("p1", "w1", MINUTE)
    with pytest.raises(ConflictError) as raised:
        store.pipelines.delete("p1")
    assert raised.value.code == "store.leased"
    store.leases.acquire("p1", "w1", GONE)
    store.pipelines.delete("p1")
    assert store.pipelines.list() == []


def test_rotation_leaves_the_old_master_key_without_use(store_url: str) -> None:
    old, new = new_key(), new_key()
    with Store.open(store_url, keys=keys(old)) as store:
        store.connections.save(POSTGRES, {"password": "p", "ssh.password": "q"})
    with Store.open(store_url, keys=keys(new)) as store:
        with pytest.raises(ConfigError) as raised:
            store.connections.settings("c1")
        assert raised.value.code == "store.key_missing"
        with pytest.raises(ConfigError):
            store.rotate()
    with Store.open(store_url, keys=keys(new, old)) as store:
        assert store.connections.settings("c1")["password"] == "p"
        assert store.rotate() == 2
        assert store.rotate() == 0
    with Store.open(store_url, keys=keys(new)) as store:
        assert store.connections.settings("c1")["password"] == "p"
        assert store.connections.settings("c1")["ssh"]["password"] == "q"


@pytest.mark.parametrize(
    "swap",
    [
        "UPDATE secrets SET connection = 'c2' WHERE connection = 'c1' AND field = 'b'",
        "UPDATE secrets SET field = 'c' WHERE field = 'a'",
        "UPDATE secrets SET sealed = (SELECT sealed FROM secrets WHERE field = 'a') WHERE field = 'b'",
        "UPDATE secrets SET wrapped = (SELECT wrapped FROM secrets WHERE field = 'a') WHERE field = 'b'",
    ],
)
def test_sealed_text_that_was_moved_does_not_open(store: Store, store_url: str, swap: str) -> None:
    store.connections.save(POSTGRES, {"a": "1", "b": "2"})
    store.connections.save(replace(POSTGRES, id="c2", name="second"))
    engine = sa.create_engine(store_url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.exec_driver_sql(swap)
    engine.dispose()
    with pytest.raises(ConfigError) as raised:
        store.connections.settings("c1")
        store.connections.settings("c2")
    assert raised.value.code == "store.seal_broken"


def test_a_secret_is_nowhere_in_the_database_nor_in_what_is_shown(
    store: Store, store_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    secret = {"password": CANARY}
    saved = store.connections.save(POSTGRES, secret)
    shown = [saved, store.connections.get("c1"), store.connections.list(), store, store.connections]
    errors: list[HeadraceError] = []
    for call in (
        lambda: store.connections.save(POSTGRES, secret),
        lambda: store.connections.save(replace(POSTGRES, version=9), secret),
        lambda: store.connections.save(replace(POSTGRES, id="c2", name="n", settings=secret), secret),
        lambda: store.connections.save(replace(POSTGRES, id="c2", name="n", secrets=("x",)), secret),
    ):
        with pytest.raises(HeadraceError) as raised:
            call()
        errors.append(raised.value)
    with started(store) as attempt:
        attempt.log("info", "nothing to see")
    for error in errors:
        shown += [error.as_dict(), repr(error), error.__cause__]
        assert error.__suppress_context__ or error.__context__ is None
    assert store.connections.settings("c1")["password"] == CANARY
    assert CANARY not in dump(store_url)
    assert CANARY not in repr(shown)
    assert CANARY not in caplog.text
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or CANARY.encode() not in path.read_bytes()
