"""The documented requests of the Ingestion API, one after the other, over HTTP."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest

from headrace.connector import egress
from headrace.model.workspace import Role
from tests.dialects.conftest import WORD, Caller

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
NOBODY = "a1b2c3d4-e5f6-7890-abcd-ef1234567890"

SOURCE = {
    "name": "production-postgres",
    "description": "Production PostgreSQL database for order data",
    "connectorType": "postgres",
    "connectionConfig": {
        "host": "orders-db.example.com",
        "port": 5432,
        "database": "orders",
        "username": "readonly_user",
        "password": "********",
        "ssl_mode": "require",
    },
}
UPDATED = {
    "name": "production-postgres-updated",
    "description": "Updated description",
    "connectionConfig": {
        "host": "new-host.example.com",
        "port": 5432,
        "database": "orders",
        "username": "readonly_user",
        "password": "********",
    },
}


def failed(answer: httpx.Response, status: int, message: str | None = None) -> str:
    """The message of an answer that has the one body of failures, and nothing else in it."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert list(body) == ["timestamp", "status", "error", "message", "path"]
    assert TIME.fullmatch(body["timestamp"])
    assert body["status"] == status
    assert body["path"] == urlsplit(str(answer.url)).path
    if message is not None:
        assert body["message"] == message
    text: str = body["message"]
    return text


def make_source(ann: Caller, url: str | None = None, **more: Any) -> dict[str, Any]:
    body: dict[str, Any] = SOURCE | more
    if url:
        at = urlsplit(url)
        config = {"host": at.hostname, "port": at.port, "database": at.path[1:], "username": at.username}
        body["connectionConfig"] = config | ({"password": at.password} if at.password else {})
    answer = ann("POST", "/api/v1/sources", body)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def make_connection(ann: Caller, source: str, **more: Any) -> dict[str, Any]:
    body = {"sourceId": source, "name": "orders-daily-sync"} | more
    answer = ann("POST", "/api/v1/connections", body)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def test_the_documented_requests_about_sources(ann: Caller) -> None:
    answer = ann("POST", "/api/v1/sources", SOURCE)
    assert answer.status_code == 201
    made = answer.json()
    assert UUID.fullmatch(made["id"]) and TIME.fullmatch(made["createdAt"])
    assert answer.headers["location"] == f"/api/v1/sources/{made['id']}"
    assert made == {
        "id": made["id"],
        "name": "production-postgres",
        "description": "Production PostgreSQL database for order data",
        "connectorType": "postgres",
        "status": "INACTIVE",
        "lastTestedAt": None,
        "createdAt": made["createdAt"],
    }
    at = f"/api/v1/sources/{made['id']}"
    assert ann("GET", at).json() == made
    assert ann("GET", at + "/").json() == made
    assert ann("GET", "/api/v1/sources").json() == [made]
    changed = ann("PUT", at, UPDATED)
    assert changed.status_code == 200, changed.text
    assert changed.json() == made | {
        "name": "production-postgres-updated",
        "description": "Updated description",
    }
    assert ann("PUT", at, {"description": None}).json()["description"] is None
    assert ann("DELETE", at).status_code == 204
    failed(ann("GET", at), 404, f"Source not found: {made['id']}")
    failed(ann("DELETE", at), 404)
    assert ann("GET", "/api/v1/sources").json() == []


def test_the_connector_types_are_those_of_the_contract_and_need_no_tenant(ann: Caller) -> None:
    answer = httpx.get(
        f"{ann.http.base_url}/api/v1/sources/connector-types",
        headers={"Authorization": ann.http.headers["authorization"]},
    )
    assert answer.json() == [
        "postgres", "mysql", "mongodb", "mssql", "oracle", "salesforce", "hubspot", "stripe", "s3", "gcs",
        "azure-blob-storage", "sftp-bulk", "github", "jira", "zendesk",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "Source name is required"),
        ({"name": "  "}, "Source name is required"),
        ({"name": None}, "Source name is required"),
        ({"name": 7}, "Source name must be text"),
        ({"name": "x" * 256}, "Source name must not be longer than 255 characters"),
        ({"name": "x", "description": "x" * 2001}, "Description must not be longer than 2000 characters"),
        ({"name": "x"}, "Connector type is required"),
        ({"name": "x", "connectorType": "nope"}, "Unknown connector type: nope"),
        ({"name": "x", "connectorType": "postgres"}, "connectionConfig is required"),
        (
            {"name": "x", "connectorType": "postgres", "connectionConfig": []},
            "connectionConfig must be an object",
        ),
    ],
)
def test_the_first_field_that_fails_is_named(ann: Caller, body: dict[str, Any], message: str) -> None:
    failed(ann("POST", "/api/v1/sources", body), 400, message)


def test_a_key_of_the_config_that_is_missing_or_unknown_is_named(ann: Caller) -> None:
    config = dict(SOURCE["connectionConfig"])  # type: ignore[call-overload]
    del config["host"]
    assert "'host'" in failed(ann("POST", "/api/v1/sources", SOURCE | {"connectionConfig": config}), 400)
    config |= {"host": "h", "pasword": "canary-1f"}
    text = failed(ann("POST", "/api/v1/sources", SOURCE | {"connectionConfig": config}), 400)
    assert "'pasword'" in text and "canary" not in text


def test_bodies_that_are_none_are_refused_before_anything_is_done(ann: Caller) -> None:
    failed(ann.http.post("/api/v1/sources", content=b"{", headers={"content-type": "application/json"}), 400)
    failed(ann.http.post("/api/v1/sources", content=b"[]", headers={"content-type": "application/json"}), 400)
    failed(ann.http.post("/api/v1/sources", content=b"x=1", headers={"content-type": "text/plain"}), 415)
    large = json.dumps(SOURCE | {"name": "x" * (1 << 20)}).encode()
    failed(ann.http.post("/api/v1/sources", content=large, headers={"content-type": "application/json"}), 413)
    assert ann("GET", "/api/v1/sources").json() == []


def test_who_may_not_come_in_is_told_in_the_order_of_the_contract(
    ann: Caller, enter: Callable[..., Caller]
) -> None:
    bare = enter("nobody@here.local").http
    bare.headers.pop("authorization")
    bare.headers.pop("x-tenant-id")
    for path in ("/api/v1/sources", "/api/v1/sources/connector-types", "/api/v1/syncs/nope/nope"):
        answer = bare.get(path)
        failed(answer, 401)
        assert answer.headers["www-authenticate"] == "Bearer"
    failed(bare.get("/api/v1/sources", headers={"Authorization": "Bearer nonsense"}), 401)
    token = {"Authorization": ann.http.headers["authorization"]}
    failed(bare.get("/api/v1/sources/x/y/z", headers=token), 404)
    refused = bare.patch("/api/v1/sources", headers=token)
    failed(refused, 405)
    assert set(refused.headers["allow"].replace(" ", "").split(",")) == {"GET", "POST"}
    failed(bare.get("/api/v1/sources", headers=token), 400, "X-Tenant-Id header is required")
    failed(
        bare.get("/api/v1/sources", headers=token | {"X-Tenant-Id": "7"}), 400, "X-Tenant-Id must be a UUID"
    )
    bob = enter("bob@here.local")
    texts = {
        failed(bare.post("/api/v1/sources", content=b"{", headers=token | {"X-Tenant-Id": tenant}), 403)
        for tenant in (NOBODY, bob.workspace)
    }
    assert len(texts) == 1


def test_a_viewer_has_not_the_permission_not_even_to_look(ann: Caller, enter: Callable[..., Caller]) -> None:
    eve = enter("eve@here.local")
    owner = ann.platform.workspaces.enter(
        ann.platform.sessions.authenticate(ann.http.headers["authorization"].split()[1]), ann.workspace
    )
    ann.platform.workspaces.add_member(owner, eve.email, Role.VIEWER)
    for method, path in (("GET", "/api/v1/sources"), ("GET", "/api/v1/syncs"), ("POST", "/api/v1/sources")):
        failed(eve(method, path, headers={"X-Tenant-Id": ann.workspace}), 403)
    ann.platform.workspaces.add_member(owner, eve.email, Role.MEMBER)
    assert eve("GET", "/api/v1/sources", headers={"X-Tenant-Id": ann.workspace}).status_code == 200


def test_what_is_another_tenants_is_not_found(ann: Caller, enter: Callable[..., Caller]) -> None:
    source = make_source(ann)
    connection = make_connection(ann, source["id"])
    sync = ann("POST", f"/api/v1/syncs/connections/{connection['id']}/trigger").json()
    bob = enter("bob@here.local")
    ids = {"s": source["id"], "c": connection["id"], "y": sync["id"]}
    for method, path in (
        ("GET", "/sources/{s}"), ("PUT", "/sources/{s}"), ("DELETE", "/sources/{s}"),
        ("POST", "/sources/{s}/test"), ("POST", "/sources/{s}/discover"),
        ("GET", "/connections/{c}"), ("PUT", "/connections/{c}"), ("DELETE", "/connections/{c}"),
        ("GET", "/connections/{c}/tuning"), ("PUT", "/connections/{c}/tuning"),
        ("GET", "/connections/{c}/cdc"), ("POST", "/connections/{c}/cdc"),
        ("POST", "/syncs/connections/{c}/trigger"), ("POST", "/syncs/{y}/cancel"), ("GET", "/syncs/{y}"),
    ):  # fmt: skip
        body = {"sourceId": source["id"], "name": "x"} if method == "PUT" else {}
        foreign = failed(bob(method, "/api/v1" + path.format(**ids), body), 404)
        unknown = failed(bob(method, "/api/v1" + path.format(**dict.fromkeys(ids, NOBODY)), body), 404)
        assert UUID.sub("", foreign) == UUID.sub("", unknown), path
    failed(bob("POST", "/api/v1/connections", {"sourceId": source["id"], "name": "x"}), 404)
    assert bob("GET", "/api/v1/sources").json() == bob("GET", "/api/v1/connections").json() == []
    page = bob("GET", f"/api/v1/syncs?connectionId={connection['id']}").json()
    assert (page["content"], page["totalElements"], page["totalPages"]) == ([], 0, 0)


def test_a_secret_is_never_given_back_and_goes_nowhere_by_itself(ann: Caller, postgres_url: str) -> None:
    canary = "canary-8a61"
    config = SOURCE["connectionConfig"] | {"password": canary}  # type: ignore[operator]
    made = make_source(ann, connectionConfig=config)
    at = f"/api/v1/sources/{made['id']}"
    masked = config | {"password": "********"}
    assert ann("PUT", at, {"connectionConfig": masked}).status_code == 200
    text = failed(ann("PUT", at, {"connectionConfig": masked | {"host": "evil.example.com"}}), 400)
    assert "password" in text
    shown = [
        ann("GET", at).text,
        ann("GET", "/api/v1/sources").text,
        ann("GET", at + "?details=true").text,
        text,
    ]
    assert not any(canary in each for each in shown)
    less = {k: v for k, v in config.items() if k != "password"}
    assert ann("PUT", at, {"connectionConfig": less}).status_code == 200
    assert "password" in failed(ann("PUT", at, {"connectionConfig": masked}), 400)


def test_a_source_is_tested_and_a_new_config_makes_it_untested(ann: Caller, postgres_url: str) -> None:
    made = make_source(ann, postgres_url)
    at = f"/api/v1/sources/{made['id']}"
    tested = ann("POST", at + "/test").json()
    assert tested["status"] == "ACTIVE" and TIME.fullmatch(tested["lastTestedAt"])
    url = urlsplit(postgres_url)
    config = {
        "host": url.hostname, "port": url.port, "database": url.path[1:], "username": url.username,
        "password": url.password or None,
    }  # fmt: skip
    config = {k: v for k, v in config.items() if v is not None}
    assert ann("PUT", at, {"name": "n", "connectionConfig": config}).json()["status"] == "ACTIVE"  # the same
    changed = ann("PUT", at, {"connectionConfig": config | {"database": "nowhere"}}).json()
    assert (changed["status"], changed["lastTestedAt"]) == ("INACTIVE", tested["lastTestedAt"])
    broken = ann("POST", at + "/test?details=true")
    assert broken.status_code == 200
    assert broken.json()["status"] == "ERROR" and "nowhere" in broken.json()["statusMessage"]
    failed(ann("POST", at + "/discover"), 500)


def test_the_streams_of_a_source_are_discovered_in_the_words_of_the_contract(
    ann: Caller, postgres_url: str
) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as db:
        db.execute(
            "CREATE TABLE orders (order_id int PRIMARY KEY, customer_id int NOT NULL,"
            " order_date date NOT NULL, total_amount numeric(10, 2) NOT NULL, status text)"
        )
        db.execute("CREATE VIEW seen AS SELECT order_id FROM orders")
    made = make_source(ann, postgres_url)
    found = ann("POST", f"/api/v1/sources/{made['id']}/discover").json()
    assert found == {
        "streams": [
            {
                "name": "public.orders",
                "columns": [
                    {"name": "order_id", "type": "INTEGER", "nullable": False, "sampleValues": []},
                    {"name": "customer_id", "type": "INTEGER", "nullable": False, "sampleValues": []},
                    {"name": "order_date", "type": "DATE", "nullable": False, "sampleValues": []},
                    {"name": "total_amount", "type": "DECIMAL", "nullable": False, "sampleValues": []},
                    {"name": "status", "type": "STRING", "nullable": True, "sampleValues": []},
                ],
                "supportedSyncModes": ["FULL_REFRESH", "INCREMENTAL"],
            },
            {
                "name": "public.seen",
                "columns": [{"name": "order_id", "type": "INTEGER", "nullable": True, "sampleValues": []}],
                "supportedSyncModes": ["FULL_REFRESH"],
            },
        ]
    }
    body = {"sourceId": made["id"], "name": "x", "selectedStreams": ["public.none"]}
    failed(ann("POST", "/api/v1/connections", body), 400, "Unknown stream: public.none")


def test_the_documented_requests_about_connections(ann: Caller) -> None:
    source = make_source(ann)
    body = {
        "sourceId": source["id"],
        "name": "orders-daily-sync",
        "destinationType": "iceberg",
        "syncSchedule": "0 0 * * *",
        "selectedStreams": ["public.orders", "public.customers"],
        "syncMode": "INCREMENTAL",
    }
    answer = ann("POST", "/api/v1/connections", body)
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert answer.headers["location"] == f"/api/v1/connections/{made['id']}"
    assert made == {
        "id": made["id"],
        "sourceId": source["id"],
        "sourceName": "production-postgres",
        "name": "orders-daily-sync",
        "destinationType": "iceberg",
        "syncSchedule": "0 0 * * *",
        "syncMode": "INCREMENTAL",
        "status": "PENDING",
        "lastSyncAt": None,
        "createdAt": made["createdAt"],
    }
    at = f"/api/v1/connections/{made['id']}"
    assert ann("GET", at).json() == made
    assert ann("GET", "/api/v1/connections").json() == [made]
    failed(ann("DELETE", f"/api/v1/sources/{source['id']}"), 409)
    least = {"sourceId": source["id"], "name": "again"}
    changed = ann("PUT", at, least).json()
    assert changed == made | {"name": "again", "syncSchedule": None, "syncMode": "FULL_REFRESH"}
    assert ann("PUT", at, least | {"status": "PAUSED"}).json()["status"] == "PAUSED"
    assert ann("PUT", at, least).json()["status"] == "PAUSED"
    assert ann("PUT", at, least | {"status": "ACTIVE"}).json()["status"] == "PENDING"
    other = make_source(ann)
    failed(ann("PUT", at, {"sourceId": other["id"], "name": "x"}), 400)
    assert ann("DELETE", at).status_code == 204
    failed(ann("GET", at), 404, f"Connection not found: {made['id']}")
    assert ann("DELETE", f"/api/v1/sources/{source['id']}").status_code == 204


@pytest.mark.parametrize(
    ("more", "status", "message"),
    [
        ({"sourceId": None}, 400, "Source id is required"),
        ({"sourceId": "7"}, 400, "Source id must be a UUID"),
        ({"sourceId": NOBODY}, 404, f"Source not found: {NOBODY}"),
        ({"name": ""}, 400, "Connection name is required"),
        ({"destinationType": "snowflake"}, 400, "Unknown destination type: snowflake"),
        ({"destinationType": "parquet"}, 400, None),
        ({"syncSchedule": "every day"}, 400, None),
        ({"syncSchedule": "61 * * * *"}, 400, None),
        ({"syncSchedule": "5 0 0 * * *"}, 400, "syncSchedule: the field of the seconds must be 0"),
        ({"selectedStreams": []}, 400, None),
        ({"selectedStreams": ["a", "a"]}, 400, "selectedStreams names a stream twice"),
        ({"syncMode": "full"}, 400, "Unknown sync mode: full"),
        ({"syncMode": "CDC"}, 400, "CDC is not available for postgres in this version"),
        ({"cursorFields": {"a": 1}}, 400, None),
    ],
)
def test_what_is_wrong_with_a_connection_is_named(
    ann: Caller, more: dict[str, Any], status: int, message: str | None
) -> None:
    body = {"sourceId": make_source(ann)["id"], "name": "x"} | more
    failed(ann("POST", "/api/v1/connections", body), status, message)
    assert ann("GET", "/api/v1/connections").json() == []


@pytest.mark.parametrize("schedule", ["0 0 * * *", "0 0 12 ? * MON", "@daily", "*/5 * * * *"])
def test_a_schedule_is_echoed_as_it_was_sent(ann: Caller, schedule: str) -> None:
    made = make_connection(ann, make_source(ann)["id"], syncSchedule=schedule)
    assert made["syncSchedule"] == schedule
    assert ann("GET", f"/api/v1/connections/{made['id']}").json()["syncSchedule"] == schedule


def test_a_connection_is_tuned_member_by_member(ann: Caller) -> None:
    made = make_connection(ann, make_source(ann)["id"])
    at = f"/api/v1/connections/{made['id']}/tuning"
    default = {
        "batchSize": 10000, "parallelism": 1, "checkpointIntervalSec": 300, "maxRetries": 3,
        "retryBackoffMs": 1000, "dlqEnabled": True,
    }  # fmt: skip
    assert ann("GET", at).json() == default
    assert ann("PUT", at, {"parallelism": 4, "dlqEnabled": False}).json() == default | {
        "parallelism": 4, "dlqEnabled": False,
    }  # fmt: skip
    assert ann("PUT", at, {"dlqEnabled": True}).json() == default | {"parallelism": 4}
    for name, bad in (("batchSize", 99), ("parallelism", 33), ("maxRetries", "3"), ("dlqEnabled", 1)):
        assert name in failed(ann("PUT", at, {name: bad}), 400)
    assert ann("GET", at).json() == default | {"parallelism": 4}
    failed(ann("GET", f"/api/v1/connections/{made['id']}/cdc"), 404)
    failed(ann("POST", f"/api/v1/connections/{made['id']}/cdc", {}), 400)


def test_of_two_triggers_at_once_one_is_taken(ann: Caller) -> None:
    made = make_connection(ann, make_source(ann)["id"])
    path = f"/api/v1/syncs/connections/{made['id']}/trigger"
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: ann("POST", path), range(4)))
    assert sorted(answer.status_code for answer in answers) == [202, 409, 409, 409]
    sync = next(answer.json() for answer in answers if answer.status_code == 202)
    assert sync == {
        "id": sync["id"],
        "connectionId": made["id"],
        "connectionName": "orders-daily-sync",
        "status": "RUNNING",
        "recordsSynced": None,
        "bytesSynced": None,
        "startedAt": sync["startedAt"],
        "completedAt": None,
        "durationMs": None,
    }
    failed(ann("DELETE", f"/api/v1/connections/{made['id']}"), 409)
    assert ann("GET", f"/api/v1/syncs/{sync['id']}").json() == sync
    assert ann("POST", f"/api/v1/syncs/{sync['id']}/cancel").status_code == 204
    ended = ann("GET", f"/api/v1/syncs/{sync['id']}").json()
    assert (ended["status"], ended["recordsSynced"], ended["bytesSynced"]) == ("CANCELLED", 0, 0)
    assert ended["durationMs"] >= 0 and TIME.fullmatch(ended["completedAt"])
    failed(ann("POST", f"/api/v1/syncs/{sync['id']}/cancel"), 409)
    assert ann("GET", f"/api/v1/connections/{made['id']}").json()["status"] == "PENDING"
    assert ann("DELETE", f"/api/v1/connections/{made['id']}").status_code == 204
    assert ann("GET", f"/api/v1/syncs/{sync['id']}").json() == ended


def test_the_history_is_paged_and_sorted(ann: Caller) -> None:
    source = make_source(ann)
    ids = []
    for name in ("b", "a", "c"):
        made = make_connection(ann, source["id"], name=name)
        ids.append(ann("POST", f"/api/v1/syncs/connections/{made['id']}/trigger").json()["id"])
        time.sleep(0.002)
    page = ann("GET", "/api/v1/syncs").json()
    assert [sync["id"] for sync in page.pop("content")] == ids[::-1]
    assert page == {
        "totalElements": 3, "totalPages": 1, "number": 0, "size": 20, "first": True, "last": True,
        "numberOfElements": 3, "empty": False,
    }  # fmt: skip

    def names(query: str) -> list[str]:
        return [sync["connectionName"] for sync in ann("GET", f"/api/v1/syncs?{query}").json()["content"]]

    assert names("sort=startedAt,desc") == ["c", "a", "b"]
    assert names("sort=startedAt") == names("sort=startedAt,ASC") == ["b", "a", "c"]
    assert names("sort=connectionName,desc&size=2") == ["c", "b"]
    assert names("sort=connectionName,desc&size=2&page=1") == ["a"]
    assert (
        names("sort=status,connectionName") == names("sort=status&sort=connectionName,asc") == ["a", "b", "c"]
    )
    assert names("page=-1&size=0") == names("page=x&size=y") == names("sort=") == ["c", "a", "b"]
    past = ann("GET", "/api/v1/syncs?page=9&size=1").json()
    assert (past["content"], past["last"], past["totalPages"]) == ([], True, 3)
    failed(ann("GET", "/api/v1/syncs?sort=secret"), 400)
    failed(ann("GET", "/api/v1/syncs?connectionId=7"), 400)
    assert names(f"connectionId={NOBODY}") == names("status=SUCCEEDED") == []


def test_the_catalogue_lists_what_can_be_read_with_its_form(ann: Caller) -> None:
    found = ann("GET", "/api/v1/connectors/catalog").json()
    first = next(entry for entry in found if entry["type"] == "postgres")
    assert (first["runnable"], first["notRunnableReason"]) == (True, None)
    form = ann("GET", "/api/v1/connectors/postgres/spec").json()
    fields = form["connectionSpecification"]["properties"]
    assert fields["password"]["airbyte_secret"] is True
    assert "airbyte_secret" not in fields["host"]
    assert [field["order"] for field in fields.values()] == list(range(len(fields)))
    failed(ann("GET", "/api/v1/connectors/nope/spec"), 404)


def test_nothing_that_is_answered_holds_a_password(ann: Caller) -> None:
    assert WORD not in ann("GET", "/api/v1/sources").text


def test_rows_go_to_the_default_target_of_the_workspace(ann: Caller, postgres_url: str) -> None:
    source = make_source(ann, postgres_url)
    body = {"sourceId": source["id"], "name": "back", "destinationType": "postgres"}
    assert "workspace target" in failed(ann("POST", "/api/v1/connections", body), 400)
    token = ann.http.headers["authorization"].split()[1]
    owner = ann.platform.workspaces.enter(ann.platform.sessions.authenticate(token), ann.workspace)
    ann.platform.connections.make_default_target(owner, source["id"])
    assert ann("POST", "/api/v1/connections", body).json()["destinationType"] == "postgres"
    assert ann("GET", f"/api/v1/sources/{source['id']}").status_code == 200
    for name in ("one", "two"):
        made = make_connection(ann, source["id"], name=name)
        assert made["destinationType"] == "iceberg"
    lakes = [c for c in ann.platform.connections.list(owner) if c.connector == "iceberg"]
    assert [ann.workspace in lake.settings["warehouse"] for lake in lakes] == [True]


def test_a_server_for_others_lends_nobody_its_own_credentials(ann: Caller) -> None:
    config = {"bucket": "b", "globs": ["*.csv"], "region": "eu-west-1", "ambient_credentials": True}
    body = {"name": "s", "connectorType": "s3", "connectionConfig": config}
    before = egress.policy()
    egress.restrict(egress.Policy(loopback=False))
    try:
        assert "own machine" in failed(ann("POST", "/api/v1/sources", body), 400)
    finally:
        egress.restrict(before)
    assert ann("POST", "/api/v1/sources", body).status_code == 201  # one person's machine


def test_half_a_character_is_refused_and_spoils_nothing(ann: Caller) -> None:
    body = json.dumps(SOURCE | {"description": "\ud800"}).encode()
    answer = ann.http.post("/api/v1/sources", content=body, headers={"content-type": "application/json"})
    failed(answer, 400)
    assert ann("GET", "/api/v1/sources").json() == []


@pytest.mark.parametrize(
    ("query", "status"),
    [
        (f"page={9 * 10**30}", 200),
        ("sort=" + ",".join(["id"] * 1200), 200),
        ("from=0001-01-01T00:00:00%2B14:00", 400),
        ("to=9999-12-31T23:59:59-14:00", 400),
        ("from=yesterday", 400),
    ],
)
def test_a_list_takes_the_oddest_of_queries(ann: Caller, query: str, status: int) -> None:
    assert ann("GET", f"/api/v1/syncs?{query}").status_code == status


def test_what_can_only_be_written_is_no_source(ann: Caller) -> None:
    body = SOURCE | {"connectorType": "iceberg", "connectionConfig": {"warehouse": "x"}}
    failed(ann("POST", "/api/v1/sources", body), 400, "iceberg can't be read from")


def test_a_connection_belongs_to_the_team_of_its_source(ann: Caller, enter: Callable[..., Caller]) -> None:
    token = ann.http.headers["authorization"].split()[1]
    owner = ann.platform.workspaces.enter(ann.platform.sessions.authenticate(token), ann.workspace)
    team = ann.platform.teams.create(owner, "team")
    owner = ann.platform.workspaces.enter(ann.platform.sessions.authenticate(token), ann.workspace)
    source = make_source(ann)
    ann.platform.connections.update(owner, source["id"], {"team": team.id})
    made = make_connection(ann, source["id"])
    eve = enter("eve@here.local")
    ann.platform.workspaces.add_member(owner, eve.email, Role.MEMBER)
    here = {"X-Tenant-Id": ann.workspace}
    for method, path in (
        ("GET", f"/api/v1/connections/{made['id']}"),
        ("POST", f"/api/v1/syncs/connections/{made['id']}/trigger"),
        ("POST", f"/api/v1/sources/{source['id']}/test"),
    ):
        assert eve(method, path, headers=here).status_code == 403, path
    assert eve("GET", "/api/v1/connections", headers=here).json() == []


def test_a_finished_sync_of_a_deleted_connection_can_not_be_cancelled(ann: Caller) -> None:
    made = make_connection(ann, make_source(ann)["id"])
    sync = ann("POST", f"/api/v1/syncs/connections/{made['id']}/trigger").json()
    ann("POST", f"/api/v1/syncs/{sync['id']}/cancel")
    ann("DELETE", f"/api/v1/connections/{made['id']}")
    failed(ann("POST", f"/api/v1/syncs/{sync['id']}/cancel"), 409)
