"""The documented requests about files, over HTTP, and what the contract says of each that goes wrong."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from headrace.control.importers import Importers
from headrace.control.profiles import PARALLEL
from headrace.control.worker import Place
from headrace.model.workspace import Role
from tests.dialects.conftest import WORD, Caller
from tests.dialects.test_ingestion import NOBODY, TIME, UUID, failed
from tests.waiting import until

CSV = b"order_id,customer_name,amount\n1001,Alice,150.00\n1002,Bob,299.50\n1003,,99.90\n"
FILES = "/api/v1/files"


@pytest.fixture
def working(ann: Caller) -> Iterator[Caller]:
    """Ann, and a worker that does her imports."""
    platform = ann.platform
    place = Place(folder=platform._folder, environ={})
    importers = Importers(platform._store, place, platform.sweep.run, lambda *_, **__: None)
    thread = threading.Thread(target=importers.run)
    thread.start()
    yield ann
    importers.stop()
    thread.join()


def upload(who: Caller, name: str = "sales_2024.csv", data: bytes = CSV) -> dict[str, Any]:
    answer = who("POST", f"{FILES}/upload", files={"file": (name, data)})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def test_the_documented_requests(working: Caller) -> None:
    ann = working
    answer = ann("POST", f"{FILES}/upload", files={"file": ("sales_2024.csv", CSV)})
    assert answer.status_code == 201
    made = answer.json()
    id = made["id"]
    assert UUID.fullmatch(id) and TIME.fullmatch(made["createdAt"])
    assert made == {
        "id": id,
        "tenantId": ann.workspace,
        "fileName": "sales_2024.csv",
        "fileSize": len(CSV),
        "fileFormat": "csv",
        "storagePath": f"/tenant-{ann.workspace}/uploads/{id}/sales_2024.csv",
        "status": "UPLOADED",
        "createdAt": made["createdAt"],
    }

    answer = ann("GET", f"{FILES}/{id}/preview")
    assert answer.status_code == 200
    assert answer.json() == {
        "fileId": id,
        "fileName": "sales_2024.csv",
        "columns": [
            {
                "name": "order_id",
                "type": "INTEGER",
                "nullable": False,
                "sampleValues": ["1001", "1002", "1003"],
            },
            {"name": "customer_name", "type": "STRING", "nullable": True, "sampleValues": ["Alice", "Bob"]},
            {
                "name": "amount",
                "type": "DECIMAL",
                "nullable": False,
                "sampleValues": ["150.00", "299.50", "99.90"],
            },
        ],
        "previewRows": [
            {"order_id": 1001, "customer_name": "Alice", "amount": 150.0},
            {"order_id": 1002, "customer_name": "Bob", "amount": 299.5},
            {"order_id": 1003, "customer_name": None, "amount": 99.9},
        ],
        "totalRows": 3,
        "inferredTypes": {"order_id": "INTEGER", "customer_name": "STRING", "amount": "DECIMAL"},
    }
    assert '"amount": 150.00' in answer.text

    body = {
        "targetTableName": "sales_orders_2024",
        "targetSchema": "raw_data",
        "columnMappings": {"order_id": "order_id", "customer_name": "customer", "amount": "total_amount"},
    }
    answer = ann("PUT", f"{FILES}/{id}/schema", body)
    assert answer.status_code == 200
    assert answer.json() == made | body | {
        "status": "PREVIEWING",
        "recordsImported": None,
        "recordsRejected": None,
        "rejectReasons": [],
        "errorMessage": None,
        "completedAt": None,
    }

    answer = ann("POST", f"{FILES}/{id}/import")
    assert answer.status_code == 202
    assert answer.json() == {
        "id": id,
        "fileName": "sales_2024.csv",
        "targetTableName": "sales_orders_2024",
        "targetSchema": "raw_data",
        "status": "IMPORTING",
        "createdAt": made["createdAt"],
    }

    until(lambda: status(ann, id)["status"] != "IMPORTING", "the import ends")
    found = status(ann, id)
    assert TIME.fullmatch(found["completedAt"])
    assert found == {
        "id": id,
        "fileName": "sales_2024.csv",
        "status": "COMPLETED",
        "recordsImported": 3,
        "completedAt": found["completedAt"],
        "recordsRejected": 0,
        "rejectReasons": [],
        "errorMessage": None,
    }

    answer = ann("GET", f"{FILES}/formats")
    assert answer.json() == ["csv", "xlsx", "xls", "parquet", "json", "jsonl", "avro"]


def status(who: Caller, id: str) -> dict[str, Any]:
    answer = who("GET", f"{FILES}/{id}/status")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


def test_the_formats_need_a_token_and_no_tenant(ann: Caller) -> None:
    del ann.http.headers["X-Tenant-Id"]
    assert len(ann("GET", f"{FILES}/formats").json()) == 7
    assert ann("GET", f"{FILES}/formats", headers={"X-Tenant-Id": "junk"}).status_code == 200
    failed(ann("POST", f"{FILES}/upload", files={"file": ("a.csv", CSV)}), 400)
    del ann.http.headers["Authorization"]
    failed(ann("GET", f"{FILES}/formats"), 401)


def test_rejected_rows_are_counted_and_paged(working: Caller) -> None:
    data = b"a,b\n1,2\n" + b"x\n" * 25
    id = upload(working, data=data)["id"]
    assert working("PUT", f"{FILES}/{id}/schema", {"targetTableName": "t"}).status_code == 200
    assert working("POST", f"{FILES}/{id}/import").status_code == 202
    until(lambda: status(working, id)["status"] == "COMPLETED", "the import ends")
    found = status(working, id)
    assert (found["recordsImported"], found["recordsRejected"]) == (1, 25)
    assert found["rejectReasons"] == [
        {
            "code": "COLUMN_COUNT",
            "count": 25,
            "firstLine": 3,
            "example": "1 fields where the header has 2",
        }
    ]
    page = working("GET", f"{FILES}/{id}/rejections?page=1&size=10").json()
    assert (page["totalElements"], page["number"], page["numberOfElements"]) == (25, 1, 10)
    assert page["content"][0] == {
        "line": 13, "column": None, "code": "COLUMN_COUNT", "message": "1 fields where the header has 2",
        "raw": "x",
    }  # fmt: skip


def test_what_is_asked_beyond_the_contract(ann: Caller) -> None:
    id = upload(ann, data=b"a;b\n1;x\n2;y\n")["id"]
    more = ann("GET", f"{FILES}/{id}/preview?rows=1&details=true").json()
    assert len(more["previewRows"]) == 1
    assert more["warnings"] == [] and more["sheets"] == [] and more["dialect"]["encoding"] == "utf-8"
    body = {
        "targetTableName": "t",
        "targetSchema": None,
        "columnMappings": {"column_2": None},
        "columnTypes": {"column_1": "STRING"},
        "readOptions": {"delimiter": ";", "header": False},
        "writeMode": "REPLACE",
        "maxRejected": 0,
        "unknown": 1,
    }
    answer = ann("PUT", f"{FILES}/{id}/schema", body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["targetSchema"] == "raw_data"
    assert answer.json()["columnMappings"] == {"column_2": None}


BAD_SCHEMAS: list[tuple[dict[str, Any], str]] = [
    ({}, "Target table name is required"),
    ({"targetTableName": " "}, "Target table name is required"),
    ({"targetTableName": "1a"}, "targetTableName"),
    ({"targetTableName": "t", "targetSchema": "a-b"}, "targetSchema"),
    ({"targetTableName": "t", "columnMappings": []}, "columnMappings"),
    ({"targetTableName": "t", "columnMappings": {"nope": "x"}}, "columnMappings"),
    ({"targetTableName": "t", "columnMappings": {"amount": "ORDER_ID"}}, "columnMappings"),
    ({"targetTableName": "t", "columnTypes": {"amount": "MONEY"}}, "columnTypes"),
    ({"targetTableName": "t", "readOptions": {"colour": "red"}}, "readOptions"),
    ({"targetTableName": "t", "readOptions": {"encoding": "klingon"}}, "readOptions.encoding|encoding"),
    ({"targetTableName": "t", "writeMode": "UPSERT"}, "writeMode"),
    ({"targetTableName": "t", "maxRejected": -1}, "maxRejected"),
]


def test_a_schema_that_can_not_be_is_refused_by_name(ann: Caller) -> None:
    id = upload(ann)["id"]
    for body, named in BAD_SCHEMAS:
        said = failed(ann("PUT", f"{FILES}/{id}/schema", body), 400)
        assert re.search(named, said), (body, said)


def parts(*given: tuple[str, str | None, bytes]) -> tuple[bytes, dict[str, str]]:
    """A multipart body, and the header that tells of it."""
    body = b""
    for name, file, data in given:
        told = f'; filename="{file}"' if file is not None else ""
        body += (
            f'--x\r\nContent-Disposition: form-data; name="{name}"{told}\r\n\r\n'.encode() + data + b"\r\n"
        )
    return body + b"--x--\r\n", {"Content-Type": "multipart/form-data; boundary=x"}


NO_UPLOADS: list[tuple[tuple[bytes, dict[str, str]], int]] = [
    (parts(), 400),
    (parts(("other", None, b"x")), 400),
    (parts(("file", "a.csv", CSV), ("file", "b.csv", CSV)), 400),
    (parts(("file", None, CSV)), 400),
    (parts(("file", "a.csv", b"")), 400),
    (parts(("file", "a.exe", CSV)), 400),
    (parts(("file", "a.parquet", CSV)), 400),
    ((parts(("file", "a.csv", CSV))[0][:-30], {"Content-Type": "multipart/form-data; boundary=x"}), 400),
    ((b"{}", {"Content-Type": "application/json"}), 415),
    ((b"", {"Content-Type": "multipart/form-data"}), 400),
    ((CSV, {"Content-Type": "multipart/form-data; boundary=x"}), 400),
    (parts(("other", None, b"x" * (2 << 20)), ("file", "a.csv", CSV)), 413),
]


def test_an_upload_that_is_none_is_refused(ann: Caller) -> None:
    for (content, headers), status in NO_UPLOADS:
        failed(ann("POST", f"{FILES}/upload", content=content, headers=headers), status)
    assert list(ann.platform._content._root.rglob("*.csv")) == []  # type: ignore[union-attr]


def test_other_fields_beside_the_file_are_passed_over(ann: Caller) -> None:
    body, headers = parts(("note", None, b"x"), ("file", "dir/../a b.csv", CSV), ("more", "c.csv", b"y"))
    answer = ann("POST", f"{FILES}/upload", content=body, headers=headers)
    assert answer.status_code == 201, answer.text
    assert answer.json()["fileName"] == "a b.csv"


def test_a_file_past_its_limit_is_answered_at_once(ann: Caller) -> None:
    def endless() -> Iterator[bytes]:
        head, _ = parts(("file", "a.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"))
        yield head[: head.index(b"\r\n--x--")]
        for _ in range(2000):
            yield bytes(1 << 20)

    try:
        answer = ann(
            "POST",
            f"{FILES}/upload",
            content=endless(),
            headers={"Content-Type": "multipart/form-data; boundary=x"},
        )
    except httpx.WriteError:  # the answer was there before the body ended
        pass
    else:
        failed(answer, 413)
    assert [p for p in ann.platform._content._root.rglob("*") if p.is_file()] == []  # type: ignore[union-attr]


def test_what_can_not_be_read_is_a_bad_request_and_has_failed(ann: Caller) -> None:
    id = upload(ann, "a.json", b"[1, 2")["id"]
    for _ in range(2):
        failed(ann("GET", f"{FILES}/{id}/preview"), 400)
        failed(ann("PUT", f"{FILES}/{id}/schema", {"targetTableName": "t"}), 400)
    found = status(ann, id)
    assert found["status"] == "FAILED"
    assert found["errorMessage"]


def test_who_asks_too_early_is_told_to_come_back(ann: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.dialects.ingestion.files.PATIENCE", 0.0)
    busy, pool = threading.Event(), ann.platform._profiles._pool
    for _ in range(PARALLEL):  # nobody is left to read the file
        pool.submit(busy.wait)
    try:
        id = upload(ann)["id"]
        for answer in (
            ann("GET", f"{FILES}/{id}/preview"),
            ann("PUT", f"{FILES}/{id}/schema", {"targetTableName": "t"}),
        ):
            failed(answer, 503)
            assert answer.headers["retry-after"] == "5"
        assert status(ann, id)["status"] == "UPLOADED"
    finally:
        busy.set()


def test_states_that_do_not_allow_it_are_a_conflict(working: Caller) -> None:
    ann = working
    id = upload(ann)["id"]
    failed(ann("POST", f"{FILES}/{id}/import"), 400)
    ann("PUT", f"{FILES}/{id}/schema", {"targetTableName": "t"})
    assert ann("POST", f"{FILES}/{id}/import").status_code == 202
    until(lambda: status(ann, id)["status"] == "COMPLETED", "the import ends")
    failed(ann("POST", f"{FILES}/{id}/import"), 409)
    failed(ann("PUT", f"{FILES}/{id}/schema", {"targetTableName": "t"}), 409)
    assert ann("GET", f"{FILES}/{id}/preview").status_code == 200
    assert status(ann, id)["status"] == "COMPLETED"


ROUTES = [
    ("GET", "/preview", None),
    ("PUT", "/schema", {"targetTableName": "t"}),
    ("POST", "/import", None),
    ("GET", "/status", None),
    ("GET", "/rejections", None),
]


def test_an_id_that_is_foreign_unknown_or_none(ann: Caller, enter: Callable[..., Caller]) -> None:
    bob = enter("bob@here.local")
    id = upload(ann)["id"]
    words = f"File not found: {id}"
    for method, route, body in ROUTES:
        failed(bob(method, f"{FILES}/{id}{route}", body), 404, words)
        failed(ann(method, f"{FILES}/{NOBODY}{route}", body), 404, f"File not found: {NOBODY}")
        failed(ann(method, f"{FILES}/junk{route}", body), 400)
        failed(ann("DELETE", f"{FILES}/{id}{route}"), 405)


def test_a_viewer_may_not_even_look(ann: Caller, enter: Callable[..., Caller]) -> None:
    id = upload(ann)["id"]
    vic = enter("vic@here.local")
    platform = ann.platform
    token = platform.sessions.login(ann.email, WORD).token
    owner = platform.workspaces.enter(platform.sessions.authenticate(token), ann.workspace)
    platform.workspaces.add_member(owner, vic.email, Role.VIEWER)
    vic.http.headers["X-Tenant-Id"] = ann.workspace
    for method, route, body in ROUTES:
        failed(vic(method, f"{FILES}/{id}{route}", body), 403)
    failed(vic("POST", f"{FILES}/upload", files={"file": ("a.csv", CSV)}), 403)


def test_a_slash_at_the_end_changes_nothing(ann: Caller) -> None:
    assert ann("GET", f"{FILES}/formats/").status_code == 200
    assert json.loads(ann("GET", f"{FILES}/{upload(ann)['id']}/status/").text)["status"] == "UPLOADED"
