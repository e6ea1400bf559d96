"""The documented requests of the Obsrv connector API, what is looked up by it, and who may."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from headrace.control.access import OPERATOR
from headrace.control.platform import Platform
from headrace.dialects import obsrv
from headrace.dialects.door import Door
from headrace.dialects.obsrv import schema, translate
from headrace.errors import ConfigError
from headrace.model.registry import RegistryEntry, RegistryStatus
from tests.archives import FORM, files, tar
from tests.dialects.conftest import WORD, Caller
from tests.dialects.obsrv import (
    COLUMNS,
    DOCUMENTED,
    LIST,
    MESSAGE_ID,
    MOMENT,
    READ,
    READ_COLUMNS,
    REGISTER,
    failed,
    looked,
    not_registered,
    sign_in,
    succeeded,
    uploader,
)
from tests.waiting import HANGS


@pytest.fixture
def admin(platform: Platform, nobody: httpx.Client) -> Callable[..., httpx.Response]:
    """Uploads a package as an administrator."""
    return uploader(nobody, sign_in(platform, admin=True))


# What is documented


def test_the_documented_list_finds_no_draft_on_a_fresh_installation(nobody: httpx.Client) -> None:
    answer = nobody.post(LIST, json=DOCUMENTED)
    assert succeeded(answer, "api.connectors.list") == {"data": [], "count": 0}
    assert answer.headers["content-type"] == "application/json"


def test_the_documented_read_works_on_a_fresh_installation(nobody: httpx.Client) -> None:
    row = succeeded(nobody.get(READ + "postgres-connector-1.0.0"), "api.connectors.read", None)
    assert list(row) == READ_COLUMNS
    assert (row["connector_id"], row["name"], row["type"]) == ("postgres-connector", "PostgreSQL", "source")
    assert (row["category"], row["status"], row["created_by"]) == ("Database", "Live", "SYSTEM")
    assert row["iconurl"].startswith("data:image/svg+xml;base64,")
    assert all(MOMENT.fullmatch(row[name]) for name in ("created_date", "updated_date", "live_date"))
    sections = row["ui_spec"]["schema"]["properties"]
    (option,) = sections["connector_config"]["dependencies"]["databaseType"]["oneOf"]
    info, table = option["properties"]["connection_info"], option["properties"]["schemaInfo"]
    assert list(info["properties"]) == ["host", "port", "name", "username", "password"]
    assert list(table["properties"]) == ["table", "timestampColumn"]
    assert list(sections["operations_config"]["properties"]) == [
        "batch_size", "max_batches", "pollingInterval",
    ]  # fmt: skip
    hints = row["ui_spec"]["properties"]["connector_config"]
    assert hints["connection_info"]["password"] == {"ui:widget": "password"}


def test_the_documented_upload_as_it_stands_is_no_form_and_a_real_one_is_entered(
    platform: Platform, nobody: httpx.Client, admin: Callable[..., httpx.Response]
) -> None:
    headers = {"Content-Type": "multipart/form-data", "Authorization": f"Bearer {token_of(platform)}"}
    answer = nobody.post(REGISTER, content=b'{"file3": "binary"}', headers=headers)
    not_registered(answer, 500, "Failed to register connector")
    result = succeeded(admin(), "api.connector.register", None)
    assert result == {"message": "connector registered successfully."}
    row = succeeded(nobody.get(READ + "rates-connector-1.0.0"), "api.connectors.read", None)
    assert row["ui_spec"] == FORM
    assert (
        row["iconurl"] == "data:image/svg+xml;base64,PHN2ZyB4bWxucz0iaHR0cDovL3d3dy53My5vcmcvMjAwMC9zdmciLz4="
    )


def token_of(platform: Platform) -> str:
    return platform.sessions.login("root@here.local", WORD).token


# List


def test_the_built_in_rows_are_those_of_the_contract_in_order_of_their_ids(nobody: httpx.Client) -> None:
    rows = looked(nobody)
    assert [row["id"] for row in rows] == sorted(
        [f"{n}-connector-1.0.0" for n in ("postgres", "mysql", "oracle", "mssql", "mongodb", "salesforce",
                                          "hubspot", "stripe", "github", "jira", "zendesk", "kafka")]
        + [f"{n}-connector-0.1.0" for n in ("aws-s3", "azure-blob", "gcs", "sftp")]
    )  # fmt: skip
    for row in rows:
        assert list(row) == COLUMNS
        assert (row["technology"], row["runtime"], row["status"]) == ("python", "headrace", "Live")
        assert (row["licence"], row["owner"]) == ("Apache-2.0", "Headrace")
    assert {row["category"] for row in rows} == {"Database", "File", "Stream"}
    assert {row["category"] for row in looked(nobody, category=["File"])} == {"File"}
    assert looked(nobody, status=["Retired", "InValidation"]) == []
    assert looked(nobody, status=["Live"], category=["Database"]) == [
        row for row in rows if row["category"] == "Database"
    ]


def test_no_filter_may_be_said_in_three_ways(nobody: httpx.Client) -> None:
    everything = looked(nobody)
    for request in ({}, {"filters": {}}):
        answer = nobody.post(LIST, json=DOCUMENTED | {"request": request})
        assert succeeded(answer, "api.connectors.list")["data"] == everything


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in DOCUMENTED.items() if key != name}


def filtered(**filters: Any) -> dict[str, Any]:
    return DOCUMENTED | {"request": {"filters": filters}}


P = "#properties/request/properties/filters"
DEFECTS: list[tuple[Any, str]] = [
    ([], "#type must be object"),
    *(
        (without(name), f"#required must have required property '{name}'")
        for name in ("id", "ver", "ts", "params", "request")
    ),
    ({}, "#required must have required property 'id'"),
    (DOCUMENTED | {"x": 1}, "#additionalProperties must NOT have additional properties"),
    (DOCUMENTED | {"id": "x", "x": 1}, "#additionalProperties must NOT have additional properties"),
    (DOCUMENTED | {"id": "x"}, "#properties/id/enum must be equal to one of the allowed values"),
    (DOCUMENTED | {"id": 1}, "#properties/id/type must be string"),
    (DOCUMENTED | {"ver": 2}, "#properties/ver/type must be string"),
    (DOCUMENTED | {"ts": None}, "#properties/ts/type must be string"),
    (DOCUMENTED | {"params": {}}, "#properties/params/required must have required property 'msgid'"),
    (
        DOCUMENTED | {"params": {"msgid": "x", "y": 1}},
        "#properties/params/additionalProperties must NOT have additional properties",
    ),
    (DOCUMENTED | {"params": {"msgid": 1}}, "#properties/params/properties/msgid/type must be string"),
    (DOCUMENTED | {"params": []}, "#properties/params/type must be object"),
    (DOCUMENTED | {"request": None}, "#properties/request/type must be object"),
    (DOCUMENTED | {"request": []}, "#properties/request/type must be object"),
    (
        DOCUMENTED | {"request": {"x": 1}},
        "#properties/request/additionalProperties must NOT have additional properties",
    ),
    (DOCUMENTED | {"request": {"filters": None}}, f"{P}/type must be object"),
    (filtered(x=1), f"{P}/additionalProperties must NOT have additional properties"),
    (filtered(status="Live"), f"{P}/properties/status/type must be array"),
    (filtered(status=[]), f"{P}/properties/status/minItems must NOT have fewer than 1 items"),
    (
        filtered(status=["Live", "Gone"]),
        f"{P}/properties/status/items/enum must be equal to one of the allowed values",
    ),
    (filtered(status=[True]), f"{P}/properties/status/items/type must be string"),
    (filtered(category=[]), f"{P}/properties/category/minItems must NOT have fewer than 1 items"),
    (
        filtered(category=["Stream"]),
        f"{P}/properties/category/items/enum must be equal to one of the allowed values",
    ),
    (filtered(status=[1], category=[]), f"{P}/properties/status/items/type must be string"),
]


def test_the_first_defect_of_a_list_is_told_in_the_known_words(nobody: httpx.Client) -> None:
    for body, message in DEFECTS:
        answer = nobody.post(LIST, json=body)
        assert answer.status_code == 400
        failed(answer, "api.connectors.list", "CONNECTORS_LIST_INPUT_INVALID", message, plain=False)


ANYTHING = st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.just([]) | st.just({})
FILTER = st.lists(st.sampled_from(["Live", "Draft", "File", "Stream", 1]), max_size=3) | ANYTHING


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "id": st.just("api.connectors.list") | ANYTHING,
            "ver": ANYTHING,
            "ts": ANYTHING,
            "params": st.just({"msgid": "x"}) | st.dictionaries(st.just("msgid"), ANYTHING) | ANYTHING,
            "request": st.dictionaries(
                st.sampled_from(["filters", "x"]),
                st.dictionaries(st.sampled_from(["status", "category", "x"]), FILTER) | ANYTHING,
            )
            | ANYTHING,
            "x": ANYTHING,
        },
    )
    | ANYTHING
)
def test_a_list_has_a_defect_when_its_published_schema_says_so(body: Any) -> None:
    published = schema.LIST_BODY["requestBody"]["content"]["application/json"]["schema"]
    good = Draft202012Validator(published).is_valid(body)
    assert (translate.defect(body) is None) == good


def test_a_body_of_another_kind_counts_as_an_empty_one(nobody: httpx.Client) -> None:
    for headers in ({"Content-Type": "text/plain"}, {"Content-Type": "application/xml"}, {}):
        answer = nobody.post(LIST, content=json.dumps(DOCUMENTED).encode(), headers=headers)
        words = "#required must have required property 'id'"
        failed(answer, "api.connectors.list", "CONNECTORS_LIST_INPUT_INVALID", words, plain=False)


def test_the_id_of_a_message_comes_back_with_an_error_too_and_only_if_it_is_one(nobody: httpx.Client) -> None:
    assert nobody.post(LIST, json=DOCUMENTED | {"x": 1}).json()["params"]["msgid"] == MESSAGE_ID
    assert nobody.post("/v2/nothing", json=DOCUMENTED).json()["params"]["msgid"] == MESSAGE_ID
    for params in ({"msgid": ""}, {"msgid": 7}, [], None):
        assert "msgid" not in nobody.post(LIST, json=DOCUMENTED | {"params": params}).json()["params"]


@pytest.mark.parametrize("text", [b"{", b'{"a": NaN}', b"7", b'"text"', b"[" * 100_000, b"\xff\xfe\xff"])
def test_what_is_no_json_is_told_so_on_every_path(nobody: httpx.Client, text: bytes) -> None:
    for path in (LIST, "/v2/nothing"):
        answer = nobody.post(path, content=text, headers={"Content-Type": "application/json; charset=utf-8"})
        assert answer.status_code == 500
        body = answer.json()
        assert body["params"] == {"status": "FAILED", "resmsgid": ""}
        assert (body["id"], body["responseCode"]) == ("api", "INTERNAL_SERVER_ERROR")
        assert body["error"]["code"] == "INTERNAL_SERVER_ERROR"
        assert body["error"]["message"].startswith("The body is not JSON") and body["error"]["trace"] == ""
        assert "result" not in body


def test_a_body_that_is_too_large_is_not_read(nobody: httpx.Client) -> None:
    headers = {"Content-Type": "application/json"}
    for content in (b" " * (1 << 20) + b"{}", (b" " * 65536 for _ in range(20))):
        answer = nobody.post(LIST, content=content, headers=headers)
        assert answer.status_code == 413
        failed(answer, "api", "PAYLOAD_TOO_LARGE", "request entity too large", plain=True)


# Read, and what is no route


@pytest.mark.parametrize(
    "id", ["nothing-1.0.0", "postgres-connector", "a%00b", "%ff", "é", "x" * 3000, "..", "a b"]
)
def test_what_is_not_there_is_not_found(nobody: httpx.Client, id: str) -> None:
    answer = nobody.get(READ + id.replace("..", "%2E%2E"))
    assert answer.status_code == 404
    body = answer.json()
    assert body["id"] == "api.connectors.read" and body["result"] == {}
    assert body["error"]["code"] == "CONNECTOR_NOT_FOUND"
    assert body["error"]["message"].startswith("Connector not found: ")
    if id.isascii() and "%" not in id:
        words = f"Connector not found: {id}"
        failed(answer, "api.connectors.read", "CONNECTOR_NOT_FOUND", words, plain=False)


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v2"), ("GET", "/v2/"), ("GET", LIST), ("POST", READ + "x"), ("GET", READ),
     ("GET", READ + "a/b"), ("POST", "/v2/connectors/register"), ("PUT", REGISTER), ("DELETE", "/v2/x"),
     ("OPTIONS", LIST)],
)  # fmt: skip
def test_every_other_path_is_no_route(nobody: httpx.Client, method: str, path: str) -> None:
    answer = nobody.request(method, path)
    assert answer.status_code == 404
    failed(answer, "api", "ROUTE_NOT_FOUND", "Route not found", plain=False)


def test_a_read_looks_for_what_is_live_and_with_mode_edit_for_drafts(
    serve: Callable[..., tuple[Platform, httpx.Client]],
) -> None:
    platform, http = serve(obsrv_review="true")
    succeeded(uploader(http, sign_in(platform, admin=True))(), "api.connector.register", None)
    at = READ + "rates-connector-1.0.0"
    for query in ("", "?mode=", "?mode=view"):
        assert http.get(at + query).status_code == 404
    for query in ("?mode=edit", "?mode=EDIT"):
        assert succeeded(http.get(at + query), "api.connectors.read", None)["status"] == "Draft"
    assert http.get(READ + "postgres-connector-1.0.0?mode=edit").status_code == 404
    (draft,) = looked(http, status=["Draft"])
    assert (draft["id"], draft["live_date"]) == ("rates-connector-1.0.0", None)
    registry = platform.registry
    assert registry.validate(OPERATOR, draft["id"]).status is RegistryStatus.IN_VALIDATION
    for query in ("", "?mode=edit"):
        assert http.get(at + query).status_code == 404
    registry.approve(OPERATOR, draft["id"])
    row = succeeded(http.get(at), "api.connectors.read", None)
    assert row["status"] == "Live" and MOMENT.fullmatch(row["live_date"])
    registry.retire(OPERATOR, draft["id"])
    for query in ("", "?mode=edit"):
        assert http.get(at + query).status_code == 404


# Who may


def test_only_an_administrator_registers(platform: Platform, nobody: httpx.Client, ann: Caller) -> None:
    refused = uploader(nobody, None)()
    assert refused.status_code == 401
    failed(refused, "api.connector.register", "UNAUTHORIZED ACCESS", "No token provided", plain=True)
    member = ann.http.headers["authorization"].partition(" ")[2]
    refused = uploader(nobody, member)()
    assert refused.status_code == 403
    assert refused.json()["error"]["code"] == "FORBIDDEN ACCESS"
    assert re.match(
        r"Access denied\. User does not have permission.* admin$", refused.json()["error"]["message"]
    )
    assert [e for e in platform.registry.list() if e.origin.digest] == []


def test_nobody_uploads_anything_before_they_are_known(address: str) -> None:
    at = urlsplit(address)
    with socket.create_connection((at.hostname, at.port or 0), timeout=HANGS) as line:
        head = f"POST {REGISTER} HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        line.sendall(f"{head}Content-Length: 100000000\r\n\r\n".encode())
        assert line.recv(65536).startswith(b"HTTP/1.1 401 ")


def test_a_token_may_come_in_either_header_and_must_be_a_good_one(
    platform: Platform, nobody: httpx.Client
) -> None:
    token = sign_in(platform, admin=True)
    sent = {"files": {"f": ("a.tgz", tar(files()))}}
    for headers in (
        {"x-user-token": token},
        {"Authorization": f"bearer {token}"},
        {"x-user-token": token, "Authorization": f"Bearer {token}"},
    ):
        assert nobody.post(REGISTER, headers=headers, **sent).status_code == 200  # type: ignore[arg-type]
    other = platform.sessions.login("root@here.local", WORD).token
    head, body, mark = token.split(".")
    for headers, words in (
        ({"x-user-token": other, "Authorization": f"Bearer {token}"}, "Token verification error"),
        ({"x-user-token": f"{head}.{body}.{mark[::-1]}"}, "Token verification error"),
        ({"x-user-token": "hello"}, "Token decode error"),
        ({"Authorization": "Bearer a.b.c"}, "Token decode error"),
        ({"Authorization": "Basic cm9vdDpyb290"}, "No token provided"),
    ):
        answer = nobody.post(REGISTER, headers=headers, **sent)  # type: ignore[arg-type]
        assert answer.status_code == 401
        failed(answer, "api.connector.register", "UNAUTHORIZED ACCESS", words, plain=True)


def test_a_token_is_not_looked_at_where_the_catalogue_is_public(nobody: httpx.Client) -> None:
    headers = {"Authorization": "Bearer nonsense"}
    assert nobody.post(LIST, json=DOCUMENTED, headers=headers).status_code == 200
    assert nobody.get(READ + "postgres-connector-1.0.0", headers=headers).status_code == 200


def test_a_catalogue_that_is_not_public_is_for_every_user(
    serve: Callable[..., tuple[Platform, httpx.Client]],
) -> None:
    platform, http = serve(obsrv_public_catalogue="false")
    at = READ + "postgres-connector-1.0.0"
    for id, answer in (
        ("api.connectors.list", http.post(LIST, json=DOCUMENTED)),
        ("api.connectors.read", http.get(at)),
    ):
        assert answer.status_code == 401
        failed(answer, id, "UNAUTHORIZED ACCESS", "No token provided", plain=True)
    headers = {"Authorization": f"Bearer {sign_in(platform, admin=False)}"}
    assert http.get(at, headers=headers).status_code == 200
    assert http.post(LIST, json=DOCUMENTED, headers=headers).status_code == 200
    user = platform.users.by_email(OPERATOR, "ann@here.local")
    platform.users.update(OPERATOR, user.id, {"active": False})
    answer = http.get(at, headers=headers)
    assert answer.status_code == 401
    failed(answer, "api.connectors.read", "UNAUTHORIZED ACCESS", "Token verification error", plain=True)


def test_on_ones_own_machine_registering_may_be_open(
    serve: Callable[..., tuple[Platform, httpx.Client]],
) -> None:
    platform, http = serve(obsrv_register_auth="none")
    assert uploader(http, None)().status_code == 200
    assert platform.audits.all(OPERATOR)[0].actor == "local"
    assert uploader(http, sign_in(platform, admin=False))().status_code == 403
    with pytest.raises(ConfigError) as raised:
        serve(loopback=False, obsrv_register_auth="none")
    assert raised.value.code == "registry.open_to_all"


def test_who_registered_is_in_the_audit_log_and_not_in_the_answers(
    platform: Platform, nobody: httpx.Client, admin: Callable[..., httpx.Response]
) -> None:
    assert admin().status_code == 200
    entry = platform.audits.all(OPERATOR)[0]
    root = platform.users.by_email(OPERATOR, "root@here.local")
    assert (entry.action, entry.actor, entry.object) == ("registry.register", root.id, "rates.tar.gz")
    row = nobody.get(READ + "rates-connector-1.0.0").text
    assert root.id not in row and root.email not in row and str(platform._folder) not in row


# What is promised


def test_the_document_of_the_api_is_a_good_one(platform: Platform) -> None:
    document = obsrv.app(Door(platform)).openapi()
    validate(document)


def test_rows_of_another_registry_are_taken_over(platform: Platform, nobody: httpx.Client) -> None:
    at = datetime.fromisoformat("2024-06-25T04:38:28.732+00:00")
    row = RegistryEntry(
        id="old-1.0.0", connector_id="old", name="Old", version="1.0.0", category="File",
        status=RegistryStatus.LIVE, created_at=at, updated_at=at, live_at=at,
    )  # fmt: skip
    platform.registry.take_over(OPERATOR, [row])
    found = succeeded(nobody.get(READ + "old-1.0.0"), "api.connectors.read", None)
    assert found["created_date"] == found["live_date"] == "2024-06-25T04:38:28.732Z"
