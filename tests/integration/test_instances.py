"""Instances of registry entries are pipelines: from a form to rows in a table, and from another registry."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import psycopg
import pyarrow.parquet as pq
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

from headrace.cli.main import invoke
from headrace.control.access import OPERATOR
from headrace.control.pipelines import job
from headrace.control.platform import Platform
from headrace.control.takeover import read_entries, read_instances
from headrace.engine.stop import Stop
from headrace.errors import ConfigError, HeadraceError, NotFoundError
from headrace.model.connection import Connection
from headrace.model.pipeline import Pipeline
from headrace.model.registry import InstanceDraft, InstanceStatus
from headrace.model.stream import ReadMode
from tests.archives import files, tar
from tests.integration.test_access import Silent

POSTGRES = "postgres-connector-1.0.0"
SECRET = "canary-71f2"
PLACE = {"host": "db.example", "port": 5432, "name": "shop", "username": "me", "password": SECRET}
CONFIG: dict[str, Any] = {
    "databaseType": "PostgreSQL",
    "connection_info": PLACE,
    "schemaInfo": {"table": "orders", "timestampColumn": "changed"},
}
KEY = "0123456789abcdef0123456789ABCDEF"


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    platform = Platform.open(tmp_path / "data", {})
    yield platform
    platform.close()


@pytest.fixture
def lake(platform: Platform, tmp_path: Path) -> Connection:
    draft = Connection(id="", name="lake", connector="parquet")
    return platform.connections.create(OPERATOR, draft, {"url": str(tmp_path / "lake")})


def draft(lake: Connection, **given: Any) -> InstanceDraft:
    usual: dict[str, Any] = {
        "id": str(uuid4()), "dataset": "orders_all", "entry": POSTGRES, "target": lake.id,
        "connector_config": CONFIG, "operations_config": {"pollingInterval": "Once"},
    }  # fmt: skip
    return InstanceDraft(**usual | given)


def at(url: str) -> dict[str, Any]:
    where = urlsplit(url)
    return {
        "host": where.hostname, "port": where.port, "name": where.path[1:], "username": where.username,
        **({"password": unquote(where.password)} if where.password else {}),
    }  # fmt: skip


def test_a_form_becomes_a_pipeline_and_its_secret_is_sealed(platform: Platform, lake: Connection) -> None:
    made = platform.instances.publish(OPERATOR, draft(lake))
    pipeline = platform.pipelines.get(OPERATOR, made.id)
    (choice,) = pipeline.streams
    assert (choice.stream, choice.read, choice.cursor) == ("public.orders", ReadMode.INCREMENTAL, "changed")
    assert (choice.target, pipeline.schedule, pipeline.paused) == ("orders_all", None, False)
    source = platform.connections.get(OPERATOR, pipeline.source)
    assert (source.connector, source.secrets) == ("postgres", ("password",))
    assert source.settings["database"] == "shop"
    assert made.connector_config["connection_info"] == PLACE | {"password": "********"}
    assert made.connector_config["schemaInfo"] == CONFIG["schemaInfo"]
    assert (made.status, made.rows, made.state) == (InstanceStatus.PUBLISHING, 0, {})
    assert platform.instances.list(OPERATOR) == [made] == [platform.instances.get(OPERATOR, made.id)]
    (run,) = platform.runs.list(OPERATOR, made.id)
    assert run.status.value == "queued"
    everything = repr((made, pipeline, source, platform.audits.all(OPERATOR), draft(lake)))
    assert SECRET not in everything


@pytest.mark.parametrize(
    ("word", "cron"),
    [("Hourly", "0 * * * *"), ("Daily", "0 0 * * *"), ("Weekly", "0 0 * * 0"), ("Monthly", "0 0 1 * *"),
     ("Yearly", "0 0 1 1 *")],
)  # fmt: skip
def test_a_periodic_instance_has_a_schedule_and_does_not_run_at_once(
    platform: Platform, lake: Connection, word: str, cron: str
) -> None:
    operations = {"pollingInterval": "Periodic", "schedule": word, "batch_size": 100}
    made = platform.instances.publish(OPERATOR, draft(lake, operations_config=operations))
    pipeline = platform.pipelines.get(OPERATOR, made.id)
    assert (pipeline.schedule, pipeline.tuning.batch_rows) == (cron, 100)
    assert platform.runs.list(OPERATOR, made.id) == []


def test_an_instance_moves_rows_and_is_live_then(
    platform: Platform, lake: Connection, postgres_url: str, tmp_path: Path
) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as db:
        db.execute("CREATE TABLE orders (id int PRIMARY KEY, what text)")
        db.execute("INSERT INTO orders SELECT n, 'x' || n FROM generate_series(1, 250) n")
    config = {**CONFIG, "connection_info": at(postgres_url), "schemaInfo": {"table": "orders"}}
    made = platform.instances.publish(OPERATOR, draft(lake, connector_config=config))
    pipeline = platform.pipelines.get(OPERATOR, made.id)
    ends = platform.pipelines.ends(OPERATOR, pipeline)
    platform.runs.run(OPERATOR, job(pipeline, *ends), Stop(), Silent())
    found = platform.instances.get(OPERATOR, made.id)
    assert (found.status, found.rows) == (InstanceStatus.LIVE, 250)
    written = [pq.read_table(f) for f in (tmp_path / "lake").rglob("*.parquet")]
    assert (tmp_path / "lake" / "public" / "orders_all").is_dir()
    assert sorted(n for table in written for n in table["id"].to_pylist()) == list(range(1, 251))


def test_a_retired_instance_stays_with_its_history_and_runs_no_more(
    platform: Platform, lake: Connection
) -> None:
    operations = {"pollingInterval": "Periodic", "schedule": "Daily"}
    made = platform.instances.publish(OPERATOR, draft(lake, operations_config=operations))
    assert platform.instances.retire(OPERATOR, made.id).status is InstanceStatus.RETIRED
    pipeline = platform.pipelines.get(OPERATOR, made.id)
    assert pipeline.paused and pipeline.schedule is None


@pytest.mark.parametrize(
    ("given", "code", "field"),
    [
        ({"connector_config": {**CONFIG, "surprise": 1}}, "form.unknown", "connector_config.surprise"),
        ({"connector_config": {"databaseType": "PostgreSQL"}}, "form.missing",
         "connector_config.connection_info.host"),
        ({"operations_config": {"schedule": "Daily"}}, "form.unknown", "operations_config.schedule"),
        ({"entry": "kafka-connector-1.0.0", "connector_config": {}}, "instances.not_runnable",
         "connector_id"),
        ({"entry": "aws-s3-connector-0.1.0", "connector_config": {"url": "/etc/passwd"}}, "form.invalid",
         "connector_config.url"),
        ({"entry": "nothing-1.0.0"}, "store.no_registry_entry", None),
        ({"target": "nothing"}, "store.no_connection", None),
    ],
)  # fmt: skip
def test_what_can_not_be_an_instance_leaves_nothing_behind(
    platform: Platform, lake: Connection, given: dict[str, Any], code: str, field: str | None
) -> None:
    with pytest.raises(HeadraceError) as raised:
        platform.instances.publish(OPERATOR, draft(lake, **given))
    assert (raised.value.code, raised.value.field) == (code, field)
    assert platform.pipelines.list(OPERATOR) == []
    assert platform.connections.list(OPERATOR) == [lake]


def test_files_in_a_bucket_are_an_instance_too(platform: Platform, lake: Connection) -> None:
    config = {"url": "s3://bucket/a/*.csv", "s3": {"access_key_id": "k", "secret_access_key": SECRET}}
    made = platform.instances.publish(
        OPERATOR, draft(lake, entry="aws-s3-connector-0.1.0", connector_config=config)
    )
    assert made.connector_config["s3"] == {"access_key_id": "k", "secret_access_key": "********"}
    pipeline = platform.pipelines.get(OPERATOR, made.id)
    assert platform.connections.get(OPERATOR, pipeline.source).secrets == ("s3.secret_access_key",)


def test_a_package_is_an_instance_once_it_is_installed(
    platform: Platform, lake: Connection, tmp_path: Path
) -> None:
    form = {"type": "object", "properties": {"rows": {"type": "integer"}, "seed": {"type": "integer"}}}
    registry = platform.registry
    registry.register(OPERATOR, "x.tar.gz", io.BytesIO(tar(files({"contract": "airbyte"}, form))))
    (package,) = registry.packages(OPERATOR)
    wish = draft(lake, entry="rates-connector-1.0.0", connector_config={"rows": 100})
    with pytest.raises(ConfigError, match="its package is not installed"):
        platform.instances.publish(OPERATOR, wish)
    with pytest.raises(NotFoundError):
        registry.installed(OPERATOR, package.digest, "nothing")
    registry.installed(OPERATOR, package.digest, "generator")
    made = platform.instances.publish(OPERATOR, wish)
    pipeline = platform.pipelines.get(OPERATOR, made.id)
    assert (pipeline.streams[0].stream, pipeline.streams[0].target) == ("*", None)
    ends = platform.pipelines.ends(OPERATOR, pipeline)
    platform.runs.run(OPERATOR, job(pipeline, *ends), Stop(), Silent())
    assert platform.instances.get(OPERATOR, made.id).rows >= 100
    registry.register(OPERATOR, "x.tar.gz", io.BytesIO(tar(files({"contract": "airbyte", "name": "Other"}))))
    assert registry.read("rates-connector-1.0.0").origin.connector is None


def test_a_pipeline_of_another_kind_is_no_instance(platform: Platform, lake: Connection) -> None:
    pipeline = Pipeline(id=str(uuid4()), name="p", source=lake.id, target=lake.id, streams=())
    platform.pipelines.create(OPERATOR, pipeline)
    assert platform.instances.list(OPERATOR) == []
    with pytest.raises(NotFoundError):
        platform.instances.get(OPERATOR, pipeline.id)


# What another registry held


def sealed(config: Any, key: str = KEY) -> str:
    padder = PKCS7(128).padder()
    plain = padder.update(json.dumps(config).encode()) + padder.finalize()
    cipher = Cipher(algorithms.AES(key.encode()), modes.ECB()).encryptor()
    return base64.b64encode(cipher.update(plain) + cipher.finalize()).decode()


ROW = {
    "id": POSTGRES, "connector_id": "postgres-connector", "name": "PostgreSQL", "version": "1.0.0",
    "type": "source", "category": "Database", "status": "Live", "iconurl": "https://x/y.svg",
    "ui_spec": json.dumps({"schema": {"properties": {"connector_config": {"properties": {
        "databaseType": {"enum": ["PostgreSQL", "MySQL"]},
        "connection_info": {"properties": {n: {} for n in PLACE} | {"port": {"type": "number"}}},
        "schemaInfo": {"properties": {"table": {}, "timestampColumn": {}}},
    }}, "operations_config": {"properties": {"pollingInterval": {}, "schedule": {}}}}}}),
    "source_url": "postgres-connector_1a2b3c.gz", "source": json.dumps({"source": "x"}),
    "created_by": "SYSTEM", "created_date": "2024-06-25T04:38:28.732", "live_date": None,
}  # fmt: skip
OLD_DRAFT = {**ROW, "id": "old-0.1.0", "connector_id": "old", "version": "0.1.0", "status": "Draft"}
INSTANCE = {
    "id": "postgres.1", "dataset_id": "orders_all", "connector_id": POSTGRES,
    "connector_config": sealed(CONFIG), "status": "Live",
    "operations_config": json.dumps({"pollingInterval": "Periodic", "schedule": "Daily"}),
}  # fmt: skip
EXPORT = {"connector_registry": [ROW, OLD_DRAFT], "connector_instances": [INSTANCE]}


def test_a_registry_is_taken_over_from_the_command_line_as_often_as_one_likes(
    platform: Platform, lake: Connection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export, key = tmp_path / "obsrv.json", tmp_path / "old.key"
    export.write_text(json.dumps(EXPORT))
    key.write_text(KEY + "\n")
    line = ["registry", "import", str(export), "--target", "lake", "--key-file", str(key)]
    for word in ("is paused", "was there already"):
        assert invoke([*line, "--data", str(tmp_path / "data")]) == 0
        assert word in "".join(capsys.readouterr())
    (made,) = platform.instances.list(OPERATOR)
    assert made.connector_config["connection_info"]["password"] == "********"
    pipeline = platform.pipelines.get(OPERATOR, made.id)
    assert (pipeline.paused, pipeline.schedule) == (True, "0 0 * * *")
    entry = platform.registry.read(POSTGRES)
    assert (entry.icon, entry.origin.runnable) == ("https://x/y.svg", True)
    assert entry.created_at.isoformat() == "2024-06-25T04:38:28.732000+00:00"
    (old,) = [e for e in platform.registry.list() if e.id == "old-0.1.0"]
    assert (old.status.value, old.origin.runnable) == ("Draft", False)
    assert "without its package" in (old.origin.reason or "")
    assert invoke(["registry", "import", str(export), "--data", str(tmp_path / "data")]) == 64


def test_a_config_that_is_no_longer_sealed_needs_no_key() -> None:
    (found,) = read_instances(
        {"connector_instances": [INSTANCE | {"connector_config": json.dumps(CONFIG)}]}, "t", None
    )
    assert found.connector_config == CONFIG and found.paused


@pytest.mark.parametrize(
    ("document", "key", "code"),
    [
        (EXPORT, None, "takeover.sealed"),
        (EXPORT, KEY[::-1], "takeover.key"),
        (EXPORT, "short", "takeover.key"),
        ({"connector_instances": [INSTANCE | {"connector_config": "not base64!"}]}, KEY, "takeover.key"),
        ({"connector_instances": [INSTANCE | {"connector_config": 7}]}, KEY, "takeover.row"),
        ({"connector_instances": [{}]}, KEY, "takeover.row"),
        ({"connector_instances": {}}, KEY, "takeover.row"),
    ],
)
def test_an_instance_that_can_not_be_read_is_named(document: Any, key: str | None, code: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read_instances(document, "t", key)
    assert raised.value.code == code
    assert (raised.value.field or "").startswith("connector_instances")
    assert KEY not in str(raised.value) and SECRET not in str(raised.value)


@pytest.mark.parametrize(
    "change",
    [{"status": "Gone"}, {"id": None}, {"created_date": "long ago"}, {"ui_spec": "{"}, {"ui_spec": 7}],
)
def test_a_row_that_can_not_be_read_is_named(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as raised:
        read_entries({"connector_registry": [OLD_DRAFT, OLD_DRAFT | change]})
    (name,) = change
    assert raised.value.field == f"connector_registry.1.{name}"


@pytest.mark.parametrize("left", ["connection_info", "schemaInfo"])
def test_what_an_old_form_did_not_ask_for_is_named(platform: Platform, lake: Connection, left: str) -> None:
    platform.registry.take_over(OPERATOR, read_entries(EXPORT))
    config = {name: value for name, value in CONFIG.items() if name != left}
    with pytest.raises(ConfigError) as raised:
        platform.instances.publish(OPERATOR, draft(lake, connector_config=config))
    assert raised.value.code == "form.missing" and left in (raised.value.field or "")


def test_the_way_of_a_draft_is_walked_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEADRACE_OBSRV_REVIEW", "true")
    package = tmp_path / "rates.tar.gz"
    package.write_bytes(tar(files()))
    data = ["--data", str(tmp_path / "data"), "--json"]

    def run(*words: str) -> Any:
        code = invoke(["registry", *words, *data])
        out = capsys.readouterr().out
        return code, json.loads(out)["entries"] if code == 0 else None

    id = "rates-connector-1.0.0"
    assert run("register", str(package))[1][0]["status"] == "Draft"
    assert run("approve", id)[0] == 9
    assert [entry["id"] for entry in run("list", "--status", "Draft")[1]] == [id]
    assert run("validate", id)[1][0]["status"] == "InValidation"
    assert run("approve", id)[1][0]["status"] == "Live"
    assert run("retire", id)[1][0]["status"] == "Retired"
    package.write_bytes(tar(files({"version": "2"})))
    assert run("register", str(package))[1][0]["report"]
    assert run("validate", "rates-connector-2")[0] == 3
    assert run("register", str(tmp_path / "nothing"))[0] == 64


def test_an_instance_is_of_its_workspace(platform: Platform, lake: Connection) -> None:
    made = platform.instances.publish(OPERATOR, draft(lake))
    other = platform.workspaces.create(OPERATOR, "other")
    there = platform.workspaces.enter(OPERATOR, other.id)
    assert platform.instances.list(there) == []
    with pytest.raises(NotFoundError):
        platform.instances.get(there, made.id)
    with pytest.raises(NotFoundError):
        platform.instances.retire(there, made.id)
    with pytest.raises(NotFoundError):
        platform.instances.publish(there, replace(draft(lake), dataset="mine"))
