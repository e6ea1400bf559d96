"""From the dialect's words to ours and back; nothing here reads or writes anything."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from headrace.dialects.obsrv import wire
from headrace.model.registry import RegistryEntry, RegistryStatus

_KINDS: Mapping[str, type[Any]] = {"object": dict, "array": list, "string": str}


def _choice(*values: str) -> dict[str, Any]:
    return {"type": "array", "items": {"type": "string", "enum": values}}


_FILTERS = {
    "type": "object",
    "properties": {"status": _choice(*wire.STATUSES), "category": _choice(*wire.CATEGORIES)},
}
LIST_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ("id", "ver", "ts", "params", "request"),
    "properties": {
        "id": {"type": "string", "enum": (wire.LIST,)},
        "ver": {"type": "string"},
        "ts": {"type": "string"},
        "params": {"type": "object", "required": ("msgid",), "properties": {"msgid": {"type": "string"}}},
        "request": {"type": "object", "properties": {"filters": _FILTERS}},
    },
}


def defect(body: Any) -> str | None:
    """The first thing wrong with the body of a list, as `<path in the schema> <text>`.

    Clients know these texts by heart, and which of several defects comes first.
    """
    return _defect(LIST_SCHEMA, body, ())


def _defect(schema: Mapping[str, Any], value: Any, path: tuple[str, ...]) -> str | None:
    kind = schema["type"]
    if not isinstance(value, _KINDS[kind]):
        return _said(path, "type", f"must be {kind}")
    if kind == "object":
        return _object_defect(schema, value, path)
    if kind == "array":
        if not value:
            return _said(path, "minItems", "must NOT have fewer than 1 items")
        found = (_defect(schema["items"], each, (*path, "items")) for each in value)
        return next((text for text in found if text), None)
    if "enum" in schema and value not in schema["enum"]:
        return _said(path, "enum", "must be equal to one of the allowed values")
    return None


def _object_defect(schema: Mapping[str, Any], value: Mapping[str, Any], path: tuple[str, ...]) -> str | None:
    for name in schema.get("required", ()):
        if name not in value:
            return _said(path, "required", f"must have required property '{name}'")
    if set(value) - set(schema["properties"]):
        return _said(path, "additionalProperties", "must NOT have additional properties")
    for name, inner in schema["properties"].items():
        if name in value and (text := _defect(inner, value[name], (*path, "properties", name))):
            return text
    return None


def _said(path: tuple[str, ...], rule: str, text: str) -> str:
    return f"#{'/'.join((*path, rule))} {text}"


def filters(body: Mapping[str, Any]) -> dict[str, Any]:
    """What to look for, of a body that has no defect."""
    given = body["request"].get("filters", {})
    statuses = [RegistryStatus(status) for status in given.get("status", ())]
    return {"statuses": statuses, "categories": given.get("category", [])}


def asked(body: Any) -> str | None:
    """The id that a request gives to its message."""
    params = body.get("params") if isinstance(body, Mapping) else None
    found = params.get("msgid") if isinstance(params, Mapping) else None
    return found if isinstance(found, str) and found else None


def status_of(mode: str | None) -> RegistryStatus:
    """Which one a read looks for."""
    return RegistryStatus.DRAFT if (mode or "").lower() == "edit" else RegistryStatus.LIVE


def listed(entry: RegistryEntry) -> dict[str, Any]:
    row = _row(entry)
    return {name: row[name] for name in wire.LIST_COLUMNS}


def read(entry: RegistryEntry) -> dict[str, Any]:
    row = _row(entry)
    return {name: row[name] for name in wire.READ_COLUMNS}


def _row(entry: RegistryEntry) -> dict[str, Any]:
    plain = {name: getattr(entry, name) for name in wire.LIST_COLUMNS if hasattr(entry, name)}
    return plain | {
        "iconurl": entry.icon,
        "status": entry.status.value,
        "ui_spec": entry.ui_spec,
        "created_date": _moment(entry.created_at),
        "updated_date": _moment(entry.updated_at),
        "live_date": _moment(entry.live_at) if entry.live_at else None,
    }


def _moment(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03}Z"


def is_token(text: str) -> bool:
    """Does it look like a signed token at all?"""
    parts = text.split(".")
    try:
        return len(parts) == 3 and all(_decoded(part) for part in parts[:2])
    except (ValueError, RecursionError):
        return False


def _decoded(part: str) -> bool:
    return isinstance(json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))), dict)
