"""The documented requests of the Obsrv connector API, and every message of its tables, over HTTP."""

from __future__ import annotations

import json
import re
import socket
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import pytest

from headrace.control.access import OPERATOR
from headrace.control.platform import Platform
from headrace.errors import ConfigError
from headrace.model.registry import RegistryEntry, RegistryStatus
from headrace.server.app import app
from tests.archives import FORM, METADATA, files, tar, zipped
from tests.dialects.conftest import WORD, Caller, serving
from tests.waiting import HANGS

LIST, READ, REGISTER = "/v2/connectors/list", "/v2/connectors/read/", "/v2/connector/register"
MESSAGE_ID = "4a7f14c3-d61e-4d4f-be78-181834eeff6d"
DOCUMENTED: dict[str, Any] = {
    "id": "api.connectors.list",
    "ver": "v2",
    "ts": "2024-04-10T16:10:50+05:30",
    "params": {"msgid": MESSAGE_ID},
    "request": {"filters": {"status": ["Draft"]}},
}
COLUMNS = [
    "id", "connector_id", "name", "type", "category", "version", "description", "technology", "runtime",
    "licence", "owner", "iconurl", "status", "created_by", "updated_by", "created_date", "updated_date",
    "live_date",
]  # fmt: skip
READ_COLUMNS = [name for name in COLUMNS if name not in ("technology", "runtime")]
READ_COLUMNS.insert(READ_COLUMNS.index("status") + 1, "ui_spec")
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., tuple[Platform, httpx.Client]]]:
    """A server under other settings."""
    with ExitStack() as undo:

        def start(loopback: bool = True, **settings: str) -> tuple[Platform, httpx.Client]:
            environ = {f"HEADRACE_OBSRV_{name.upper()}": value for name, value in settings.items()}
            platform = Platform.open(tmp_path / "data", environ, loopback=loopback)
            undo.callback(platform.close)
            address = undo.enter_context(serving(app(platform)))
            return platform, undo.enter_context(httpx.Client(base_url=address, timeout=HANGS))

        yield start


@pytest.fixture
def nobody(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=HANGS) as http:
        yield http


@pytest.fixture
def admin(platform: Platform, nobody: httpx.Client) -> Callable[..., httpx.Response]:
    """Uploads a package as an administrator."""
    return uploader(nobody, sign_in(platform, admin=True))


def sign_in(platform: Platform, *, admin: bool) -> str:
    email = "root@here.local" if admin else "ann@here.local"
    platform.users.create(OPERATOR, email, WORD, admin=admin)
    return platform.sessions.login(email, WORD).token


def uploader(http: httpx.Client, token: str | None) -> Callable[..., httpx.Response]:
    def upload(packed: bytes | None = None, name: str = "rates.tar.gz", **more: Any) -> httpx.Response:
        sent = {"file3": (name, tar(files()) if packed is None else packed)}
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return http.post(REGISTER, headers=headers, **({"files": sent} | more))

    return upload


def looked(http: httpx.Client, **given: Any) -> Any:
    """The rows of a list with these filters."""
    answer = http.post(LIST, json=DOCUMENTED | {"request": {"filters": given}})
    result = succeeded(answer, "api.connectors.list")
    assert result["count"] == len(result["data"])
    return result["data"]


def succeeded(answer: httpx.Response, id: str, asked: str | None = MESSAGE_ID) -> Any:
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert list(body) == ["id", "ver", "ts", "params", "responseCode", "result"]
    assert (body["id"], body["ver"], body["responseCode"]) == (id, "v2", "OK")
    check_params(body, "SUCCESS", asked)
    return body["result"]


def check_params(body: Any, status: str, asked: str | None) -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d", body["ts"])
    assert abs((datetime.fromisoformat(body["ts"]) - datetime.now().astimezone()).total_seconds()) < 3600
    assert UUID(body["params"].pop("resmsgid")).version == 4
    assert body["params"] == {"status": status} | ({"msgid": asked} if asked else {})


def failed(answer: httpx.Response, id: str, code: str, message: str, *, plain: bool) -> None:
    body = answer.json()
    check_params(body, "FAILED", body["params"].get("msgid"))
    assert body.pop("ver") == "v2" and body.pop("ts") and body.pop("params")
    names = {400: "BAD_REQUEST", 401: "UNAUTHORIZED", 403: "FORBIDDEN", 404: "NOT_FOUND",
             413: "PAYLOAD_TOO_LARGE", 422: "UNPROCESSABLE_ENTITY", 500: "INTERNAL_SERVER_ERROR"}  # fmt: skip
    error = {"code": code, "message": message} | ({"trace": ""} if plain else {})
    expected: dict[str, Any] = {"id": id, "responseCode": names[answer.status_code], "error": error}
    if not plain:
        expected["result"] = "" if id == "api" else {}
    assert body == expected


def not_registered(answer: httpx.Response, status: int, message: str) -> None:
    assert answer.status_code == status, answer.text
    failed(answer, "api.connector.register", "FAILED_TO_REGISTER_CONNECTOR", message, plain=True)


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
    platform, http = serve(review="true")
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


# Register


def dropped(name: str, **metadata: Any) -> bytes:
    content = files(metadata)
    return tar({path: data for path, data in content.items() if not path.endswith(name)})


def with_metadata(text: bytes) -> bytes:
    return tar({**files(), "rates-connector-1.0.0/metadata.json": text})


def less(key: str) -> bytes:
    about = {name: value for name, value in METADATA.items() if name != key}
    return with_metadata(json.dumps({"metadata": about}).encode())


FOLDER = "connector source folder not found; expecting {} folder inside the archive"
DOCUMENT = {"type": "connector", "metadata": METADATA}
PACKAGES: dict[str, tuple[bytes, int, str]] = {
    "no archive": (b"hello", 422, "Failed to Extract the File"),
    "the way up": (tar({**files(), "../x": b""}), 422, "Failed to Extract the File"),
    "a large icon": (
        tar({**files(), "rates-connector-1.0.0/icon.svg": bytes(range(256)) * 2049}),
        422,
        "Failed to Extract the File",
    ),
    "no metadata": (dropped("metadata.json"), 422, "unable to locate the metadata file"),
    "empty metadata": (with_metadata(b""), 422, "unable to locate the metadata file"),
    "no folder": (
        tar({f"x/{path.partition('/')[2]}": data for path, data in files().items() if data}),
        422,
        FOLDER.format("rates-connector-1.0.0"),
    ),
    "no id": (less("id"), 422, FOLDER.format("undefined-1.0.0")),
    "an id of nothing": (
        with_metadata(json.dumps({"metadata": METADATA | {"id": None}}).encode()),
        422,
        FOLDER.format("null-1.0.0"),
    ),
    "the way up as a folder": (
        with_metadata(json.dumps({"metadata": METADATA | {"id": "../x"}}).encode()),
        422,
        FOLDER.format("../x-1.0.0"),
    ),
    "no form": (dropped("ui-config.json"), 422, "Unable to locate the ui configuration File"),
    "a form that is no JSON": (
        tar({**files(), "rates-connector-1.0.0/ui-config.json": b"{"}),
        422,
        "Failed to register connector",
    ),
    "a form too deep": (
        tar({**files(), "rates-connector-1.0.0/ui-config.json": b'{"a":' * 200 + b"1" + b"}" * 200}),
        422,
        "Failed to register connector",
    ),
    "metadata that are no JSON": (with_metadata(b"{"), 422, "Failed to register connector"),
    "metadata without end": (with_metadata(b"[" * 100_000), 422, "Failed to register connector"),
    "metadata of no section": (with_metadata(b"{}"), 422, "Failed to register connector"),
    "several without a list": (tar(files({"tenant": "multiple"})), 422, "Failed to register connector"),
    "several of one id": (
        tar(files({"tenant": "multiple"}, {}, connectors=[{"id": "a b"}, {"id": "a-b"}])),
        422,
        "Failed to register connector",
    ),
    "a name that is no text": (tar(files({"name": {"a": 1}})), 422, "Failed to register connector"),
    "a name that no database holds": (tar(files({"name": "a\0b"})), 422, "Failed to register connector"),
    **{
        f"no {key}": (less(key), 422, "Failed to register connector")
        for key in METADATA
        if key not in ("id", "version")
    },
}


def test_what_is_wrong_with_a_package_is_told_in_the_known_words(
    platform: Platform, nobody: httpx.Client, admin: Callable[..., httpx.Response]
) -> None:
    for packed, _, message in PACKAGES.values():
        not_registered(admin(packed), 500, message)
    assert platform.registry.packages(OPERATOR) == []
    assert [path for path in (platform._folder / "packages").iterdir() if path.name[0] == "."] == []
    refusals = [e for e in platform.audits.all(OPERATOR, limit=200) if e.action == "registry.refuse"]
    assert len(refusals) == len(PACKAGES)
    assert "symbolic" not in str(refusals) and any("leads out" in str(e.detail) for e in refusals)


def test_with_strict_status_a_bad_package_is_the_clients_fault(
    serve: Callable[..., tuple[Platform, httpx.Client]],
) -> None:
    platform, http = serve(strict_status="true")
    upload = uploader(http, sign_in(platform, admin=True))
    for packed, status, message in list(PACKAGES.values())[:12]:
        not_registered(upload(packed), status, message)
    not_registered(upload(files={"x": (None, "text")}), 400, "connector relative path is missing.")
    not_registered(upload(files=None, json={}), 400, "Failed to register connector")


def test_a_form_has_exactly_one_file(admin: Callable[..., httpx.Response]) -> None:
    one = ("rates.tar.gz", tar(files()))
    several = admin(files=[("a", one), ("b", one)])
    assert several.status_code == 400
    words = "Uploading multiple files are not allowed"
    failed(several, "api.connector.register", "FAILED_TO_UPLOAD", words, plain=True)
    not_registered(admin(files={"x": (None, "text")}), 500, "connector relative path is missing.")
    not_registered(admin(files=None, json={"file3": "binary"}), 500, "Failed to register connector")
    assert admin(files={"any name": one}, data={"ignored": "field"}).status_code == 200


def test_a_form_that_is_cut_off_is_refused(platform: Platform, nobody: httpx.Client) -> None:
    token = sign_in(platform, admin=True)
    headers = {"Content-Type": "multipart/form-data; boundary=x", "Authorization": f"Bearer {token}"}
    for content in (b"", b"--y\r\n\r\n", b"--x\r\nContent-Disposition: form-data\r\n\r\nabc\r\n--x--\r\n"):
        answer = nobody.post(REGISTER, content=content, headers=headers)
        assert answer.status_code == 500
        assert answer.json()["error"]["code"] == "FAILED_TO_REGISTER_CONNECTOR"


def test_an_upload_that_is_too_large_ends_while_it_comes(
    platform: Platform, nobody: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headrace.control import registry
    from headrace.dialects.obsrv import receive

    assert receive.UPLOAD_BYTES == registry.UPLOAD_BYTES == 200 << 20
    monkeypatch.setattr(receive, "UPLOAD_BYTES", 3 << 20)
    upload = uploader(nobody, sign_in(platform, admin=True))
    answer = upload(b"\0" * (5 << 20))
    assert answer.status_code == 413
    failed(answer, "api", "PAYLOAD_TOO_LARGE", "request entity too large", plain=True)


@pytest.mark.parametrize(
    ("name", "packed"),
    [
        ("rates.zip", zipped(files())),
        ("rates.ZIP", zipped(files())),
        ("rates.tar", tar(files(), "w")),
        ("rates.tgz", tar(files(), "w:gz")),
        ("rates.tar.bz2", tar(files(), "w:bz2")),
        ("rates", tar(files(), "w:xz")),
    ],
)
def test_packages_of_each_kind_are_entered(
    admin: Callable[..., httpx.Response], platform: Platform, name: str, packed: bytes
) -> None:
    succeeded(admin(packed, name), "api.connector.register", None)
    (entry,) = [e for e in platform.registry.list() if e.origin.digest]
    base, dot, last = name.rpartition(".")
    pattern = rf"{re.escape(base)}_[0-9a-f]{{6}}\.{last}" if dot else rf"{name}_[0-9a-f]{{6}}"
    assert re.fullmatch(pattern, entry.origin.archive or "")
    assert entry.origin.program == {
        "source": "rates-connector-1.0.0", "main_class": "", "main_program": "connector.py",
    }  # fmt: skip
    (package,) = platform.registry.packages(OPERATOR)
    assert package.digest == entry.origin.digest and package.entries == (entry.id,)
    assert (package.folder / "connector.py").read_bytes().startswith(b"raise")


def test_a_new_version_retires_the_old_one_and_the_same_one_is_changed(
    nobody: httpx.Client, admin: Callable[..., httpx.Response]
) -> None:
    assert admin().status_code == 200
    first = succeeded(nobody.get(READ + "rates-connector-1.0.0"), "api.connectors.read", None)
    assert admin(tar(files({"name": "Exchange rates", "id": "rates-connector"}))).status_code == 200
    again = succeeded(nobody.get(READ + "rates-connector-1.0.0"), "api.connectors.read", None)
    assert again["name"] == "Exchange rates"
    assert (again["created_date"], again["live_date"]) == (first["created_date"], first["live_date"])
    assert again["updated_date"] >= first["updated_date"] and again["updated_by"] == "SYSTEM"
    assert admin(tar(files({"version": "1.1.0"}))).status_code == 200
    assert nobody.get(READ + "rates-connector-1.0.0").status_code == 404
    assert nobody.get(READ + "rates-connector-1.1.0").status_code == 200
    assert [row["id"] for row in looked(nobody, status=["Retired"])] == ["rates-connector-1.0.0"]
    assert admin().status_code == 200
    assert [row["id"] for row in looked(nobody, status=["Retired"])] == ["rates-connector-1.1.0"]


def test_a_package_of_several_connectors_is_entered_whole(
    nobody: httpx.Client, admin: Callable[..., httpx.Response]
) -> None:
    several = [
        {"id": "gold rates", "name": "Gold", "description": "of gold", "icon": "icon.svg"},
        {"id": "silver", "name": "Silver", "main_program": "silver.py", "icon": "missing.png"},
    ]
    packed = tar(files({"tenant": "multiple"}, {"gold rates": FORM}, connectors=several))
    assert admin(packed).status_code == 200
    gold = succeeded(nobody.get(READ + "gold-rates-1.0.0"), "api.connectors.read", None)
    silver = succeeded(nobody.get(READ + "silver-1.0.0"), "api.connectors.read", None)
    assert (gold["connector_id"], gold["name"], gold["ui_spec"]) == ("gold-rates", "Gold", FORM)
    assert (silver["ui_spec"], silver["iconurl"], silver["licence"]) == ({}, None, "MIT")
    assert gold["iconurl"].startswith("data:image/svg+xml;base64,")


def test_a_row_that_can_not_be_stored_is_told_by_its_connector(
    platform: Platform, admin: Callable[..., httpx.Response]
) -> None:
    assert admin(tar(files({"id": "a", "version": "1-2"}))).status_code == 200
    not_registered(admin(tar(files({"id": "a-1", "version": "2"}))), 500, "Failed to register connector a-1")


def test_a_category_of_its_own_is_entered_though_no_filter_finds_it(
    nobody: httpx.Client, admin: Callable[..., httpx.Response], platform: Platform
) -> None:
    assert admin(tar(files({"category": "batch", "technology": "java", "version": "7"}))).status_code == 200
    (row,) = [row for row in looked(nobody) if row["id"] == "rates-connector-7"]
    assert (row["category"], row["technology"]) == ("batch", "java")
    (package,) = platform.registry.packages(OPERATOR)
    assert not package.runnable and "only Python" in (package.reason or "")
    (entry,) = [e for e in platform.registry.list() if e.origin.digest]
    assert entry.origin.report == ("the version '7' is not of the form 1.2.3",)


def test_a_registered_row_takes_the_place_of_the_built_in_one_here(
    nobody: httpx.Client, admin: Callable[..., httpx.Response]
) -> None:
    assert admin(tar(files({"id": "postgres-connector", "name": "Ours"}))).status_code == 200
    at = READ + "postgres-connector-1.0.0"
    assert succeeded(nobody.get(at), "api.connectors.read", None)["name"] == "Ours"
    assert len([row for row in looked(nobody) if row["connector_id"] == "postgres-connector"]) == 1


def test_without_the_built_in_rows_only_registered_ones_are_there(
    serve: Callable[..., tuple[Platform, httpx.Client]],
) -> None:
    _, http = serve(builtin_rows="false")
    assert looked(http) == []
    assert http.get(READ + "postgres-connector-1.0.0").status_code == 404


def test_text_of_any_kind_comes_back_as_it_was(
    nobody: httpx.Client, admin: Callable[..., httpx.Response]
) -> None:
    form = {"title": "\u0000 \ud800 é 💧", "big": 12345678901234567890123, "small": 1e-7}
    assert admin(tar(files({"name": "Kurse für 💧"}, form))).status_code == 200
    row = succeeded(nobody.get(READ + "rates-connector-1.0.0"), "api.connectors.read", None)
    assert (row["name"], row["ui_spec"]) == ("Kurse für 💧", form)


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
    platform, http = serve(public_catalogue="false")
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
    platform, http = serve(register_auth="none")
    assert uploader(http, None)().status_code == 200
    assert platform.audits.all(OPERATOR)[0].actor == "local"
    assert uploader(http, sign_in(platform, admin=False))().status_code == 403
    with pytest.raises(ConfigError) as raised:
        serve(loopback=False, register_auth="none")
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


def test_the_coverage_names_every_route_and_none_besides() -> None:
    from headrace.dialects.obsrv.routes import router

    table = Path(__file__).parents[2] / "src/headrace/dialects/obsrv/coverage.toml"
    promised = tomllib.loads(table.read_text())["operations"]
    routes = {f"{method} {route.path}" for route in router.routes for method in route.methods}  # type: ignore[attr-defined]
    assert set(promised) == routes
    assert {each["state"] for each in promised.values()} <= {"done", "partial", "notyet", "never"}
    assert all(each["state"] == "done" or each.get("reason") for each in promised.values())


def test_nothing_of_the_package_was_run(
    platform: Platform, admin: Callable[..., httpx.Response], tmp_path: Path
) -> None:
    mark = tmp_path / "ran"
    evil = f"open({str(mark)!r}, 'w').close()\n".encode()
    content = files() | {
        f"rates-connector-1.0.0/{name}": evil
        for name in ("setup.py", "connector.py", "__init__.py", "sitecustomize.py", "conftest.py")
    }
    assert admin(tar(content | {"sitecustomize.py": evil, "json.py": evil})).status_code == 200
    assert not mark.exists()


def test_rows_of_another_registry_are_taken_over(platform: Platform, nobody: httpx.Client) -> None:
    at = datetime.fromisoformat("2024-06-25T04:38:28.732+00:00")
    row = RegistryEntry(
        id="old-1.0.0", connector_id="old", name="Old", version="1.0.0", category="File",
        status=RegistryStatus.LIVE, created_at=at, updated_at=at, live_at=at,
    )  # fmt: skip
    platform.registry.take_over(OPERATOR, [row])
    found = succeeded(nobody.get(READ + "old-1.0.0"), "api.connectors.read", None)
    assert found["created_date"] == found["live_date"] == "2024-06-25T04:38:28.732Z"
