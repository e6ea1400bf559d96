"""What the routes take and answer, for the OpenAPI document of the dialect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.dialects.obsrv import wire
from headrace.dialects.obsrv.translate import LIST_SCHEMA

Answers = dict[int | str, dict[str, Any]]

_TEXT = {"type": "string"}
_MAYBE = {"type": ["string", "null"]}


def _object(members: Mapping[str, Any], *optional: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(members),
        "required": [name for name in members if name not in optional],
        "additionalProperties": False,
    }


def _json(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _strict(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a list as others read it: what is not named is not allowed."""
    made = {key: list(value) if isinstance(value, tuple) else value for key, value in schema.items()}
    if schema["type"] == "object":
        members = {name: _strict(inner) for name, inner in schema["properties"].items()}
        made |= {"properties": members, "additionalProperties": False}
    if schema["type"] == "array":
        made |= {"items": _strict(schema["items"]), "minItems": 1}
    return made


def _envelope(status: str, members: Mapping[str, Any]) -> dict[str, Any]:
    params = _object({"status": {"enum": [status]}, "msgid": _TEXT, "resmsgid": _TEXT}, "msgid")
    head = {"id": _TEXT, "ver": {"enum": ["v2"]}, "ts": {"type": "string", "format": "date-time"}}
    return _object({**head, "params": params, "responseCode": _TEXT, **members}, "result")


def _row(columns: tuple[str, ...]) -> dict[str, Any]:
    named: dict[str, Any] = dict.fromkeys(columns, _MAYBE)
    named |= dict.fromkeys(("id", "connector_id", "name", "type", "version", "status"), _TEXT)
    return _object(named | ({"ui_spec": {"type": "object"}} if "ui_spec" in columns else {}))


def _answers(result: Mapping[str, Any], *failures: int) -> Answers:
    error = _object({"code": _TEXT, "message": _TEXT, "trace": _TEXT}, "trace")
    failed = _envelope("FAILED", {"result": {}, "error": error})
    good = _envelope("SUCCESS", {"result": result})
    return {
        200: {"description": "Success", "content": _json(good)},
        **{status: {"description": "Failure", "content": _json(failed)} for status in failures},
    }


LIST_ANSWERS = _answers(
    _object(
        {"data": {"type": "array", "items": _row(wire.LIST_COLUMNS)}, "count": {"type": "integer"}}
    ),
    400, 401, 413, 500,
)  # fmt: skip
READ_ANSWERS = _answers(_row(wire.READ_COLUMNS), 401, 404)
REGISTER_ANSWERS = _answers(_object({"message": _TEXT}), 400, 401, 403, 413, 422, 500)

LIST_BODY = {"requestBody": {"required": True, "content": _json(_strict(LIST_SCHEMA))}}
REGISTER_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "properties": {"file": {"type": "string", "format": "binary"}}}
            }
        },
    }
}
READ_QUERY = {
    "parameters": [
        {"name": "mode", "in": "query", "required": False, "schema": _TEXT,
         "description": "`edit` looks for a draft"},
    ]
}  # fmt: skip
