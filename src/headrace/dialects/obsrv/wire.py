"""How the dialect spells things: the envelope of every answer, and the columns of a row."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Any
from uuid import uuid4

from starlette.responses import Response

LIST, READ, REGISTER, NO_ROUTE = (
    "api.connectors.list",
    "api.connectors.read",
    "api.connector.register",
    "api",
)

STATUSES = ("Draft", "InValidation", "Live", "Retired")
CATEGORIES = ("Database", "File")

LIST_COLUMNS = (
    "id", "connector_id", "name", "type", "category", "version", "description", "technology", "runtime",
    "licence", "owner", "iconurl", "status", "created_by", "updated_by", "created_date", "updated_date",
    "live_date",
)  # fmt: skip
READ_COLUMNS = (
    "id", "connector_id", "name", "type", "category", "version", "description", "licence", "owner", "iconurl",
    "status", "ui_spec", "created_by", "updated_by", "created_date", "updated_date", "live_date",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What an answer says that is no success.

    A `plain` one has a trace and no result. `message_id` None makes a new one for this answer.
    """

    status: int
    id: str
    code: str
    message: str
    plain: bool = False
    result: Any = None
    message_id: str | None = None


class Envelope(Response):
    """One answer as JSON in ASCII: forms may hold what UTF-8 can't."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, separators=(",", ":")).encode()


def success(id: str, result: Any, asked: str | None = None) -> Envelope:
    """`asked` is the id that the request gave to its message."""
    return Envelope(
        {
            **_head(id),
            "params": {"status": "SUCCESS", **_echo(asked), "resmsgid": str(uuid4())},
            "responseCode": "OK",
            "result": result,
        }
    )


def failure(failure: Failure, asked: str | None = None) -> Envelope:
    message_id = str(uuid4()) if failure.message_id is None else failure.message_id
    error = {"code": failure.code, "message": failure.message}
    more: dict[str, Any] = {"result": {} if failure.result is None else failure.result}
    if failure.plain:
        more, error = {}, error | {"trace": ""}
    body = {
        **_head(failure.id),
        "params": {"status": "FAILED", **_echo(asked), "resmsgid": message_id},
        "responseCode": _phrase(failure.status),
        **more,
        "error": error,
    }
    return Envelope(body, failure.status)


def _head(id: str) -> dict[str, str]:
    return {"id": id, "ver": "v2", "ts": datetime.now().astimezone().isoformat(timespec="seconds")}


def _echo(asked: str | None) -> dict[str, str]:
    return {"msgid": asked} if asked else {}


def _phrase(status: int) -> str:
    return "PAYLOAD_TOO_LARGE" if status == 413 else HTTPStatus(status).name
