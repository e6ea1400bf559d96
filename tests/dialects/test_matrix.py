"""What is made through one API is there through each other one that has a word for it."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from headrace.model.registry import InstanceDraft
from tests.dialects.conftest import Caller
from tests.dialects.test_ingestion import make_connection, make_source

FORM = {"url": "s3://bucket/*.csv"}


def test_an_environment_is_a_tenant_and_a_tenant_an_environment(ann: Caller) -> None:
    made = ann("POST", "/api/envs/", {"name": "made by popsink"}).json()
    other = {"X-Tenant-Id": made["id"]}
    assert ann("GET", "/api/v1/sources", headers=other).json() == []
    source = ann(
        "POST",
        "/api/v1/sources",
        {
            "name": "s",
            "connectorType": "postgres",
            "connectionConfig": {"host": "h", "database": "d", "username": "u"},
        },
        headers=other,
    ).json()
    assert ann("GET", f"/api/v1/sources/{source['id']}").status_code == 404  # of another tenant
    names = {env["id"]: env["name"] for env in ann("GET", "/api/envs").json()["items"]}
    assert names[made["id"]] == "made by popsink" and ann.workspace in names
    ann("DELETE", f"/api/envs/{made['id']}")
    assert ann("GET", "/api/v1/sources", headers=other).status_code == 403


def test_one_sign_in_is_good_for_every_api(ann: Caller) -> None:
    for path in ("/api/users/me", "/api/envs", "/api/v1/sources", "/api/v1/syncs"):
        assert ann("GET", path).status_code == 200, path
    assert ann("POST", "/api/auth/jwt/logout").status_code == 204
    for path in ("/api/users/me", "/api/v1/sources"):
        assert ann("GET", path).status_code == 401, path


def test_an_instance_of_the_registry_is_a_source_with_a_connection(ann: Caller) -> None:
    token = ann.http.headers["authorization"].split()[1]
    actor = ann.platform.workspaces.enter(ann.platform.sessions.authenticate(token), ann.workspace)
    lake = ann.platform.connections.default_target(actor, "iceberg")
    draft = InstanceDraft(
        id=str(uuid4()), dataset="d", entry="aws-s3-connector-0.1.0", target=lake.id, connector_config=FORM
    )
    instance = ann.platform.instances.publish(actor, draft)
    (source,) = ann("GET", "/api/v1/sources").json()
    (connection,) = ann("GET", "/api/v1/connections").json()
    assert (connection["id"], connection["sourceId"]) == (instance.id, source["id"])
    (sync,) = ann("GET", f"/api/v1/syncs?connectionId={connection['id']}").json()["content"]
    assert sync["status"] == "RUNNING"


def test_the_connectors_of_the_registry_are_those_of_the_catalogue(ann: Caller) -> None:
    body: dict[str, Any] = {
        "id": "api.connectors.list", "ver": "v2", "ts": "x", "params": {"msgid": "m"}, "request": {},
    }  # fmt: skip
    rows = ann("POST", "/v2/connectors/list", body).json()["result"]["data"]
    known = {entry["type"] for entry in ann("GET", "/api/v1/connectors/catalog").json()}
    plain = {row["connector_id"].removesuffix("-connector") for row in rows}
    spelled = {"aws-s3": "s3", "azure-blob": "azure-blob-storage", "sftp": "sftp-bulk"}
    assert {spelled.get(name, name) for name in plain} <= known


def test_what_the_ingestion_api_made_is_there_for_the_command_line(ann: Caller) -> None:
    source = make_source(ann)
    connection = make_connection(ann, source["id"])
    token = ann.http.headers["authorization"].split()[1]
    actor = ann.platform.workspaces.enter(ann.platform.sessions.authenticate(token), ann.workspace)
    assert ann.platform.pipelines.get(actor, connection["id"]).source == source["id"]
    assert ann.platform.connections.get(actor, source["id"]).connector == "postgres"
