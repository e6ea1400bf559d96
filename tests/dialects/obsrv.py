"""What the tests of the Obsrv API share: its documented request, its envelopes, and an upload."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

import httpx

from headrace.control.access import OPERATOR
from headrace.control.platform import Platform
from tests.archives import files, tar
from tests.dialects.conftest import WORD

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
