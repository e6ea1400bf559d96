"""Between files of the domain and the Ingestion API; looks at nothing but what it is given."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from headrace.dialects.ingestion import wire
from headrace.dialects.ingestion.errors import Refused
from headrace.model.file import File, FileReject, ImportMode, ImportPlan, ReadOptions

MODES = {mode.name: mode for mode in ImportMode}
FIELDS = {
    "table": "targetTableName",
    "namespace": "targetSchema",
    "columns": "columnMappings",
    "types": "columnTypes",
    "max_rejected": "maxRejected",
}
"""Our names for what is wrong, in the API's."""
_TEXTS = ("delimiter", "quote", "escape", "encoding", "sheet")


def uploaded(file: File) -> dict[str, Any]:
    return {
        "id": file.id,
        "tenantId": file.workspace,
        "fileName": file.name,
        "fileSize": file.size,
        "fileFormat": file.format,
        "storagePath": f"/{file.key}",
        "status": file.status.name,
        "createdAt": wire.instant(file.created_at),
    }


def job(file: File) -> dict[str, Any]:
    return uploaded(file) | {
        "targetTableName": file.plan.table if file.plan else None,
        "targetSchema": file.plan.namespace if file.plan else None,
        "columnMappings": dict(file.plan.columns) if file.plan else {},
        **_result(file),
    }


def started(file: File) -> dict[str, Any]:
    assert file.plan is not None
    return {
        "id": file.id,
        "fileName": file.name,
        "targetTableName": file.plan.table,
        "targetSchema": file.plan.namespace,
        "status": file.status.name,
        "createdAt": wire.instant(file.created_at),
    }


def status(file: File) -> dict[str, Any]:
    result = _result(file)
    return {
        "id": file.id,
        "fileName": file.name,
        "status": file.status.name,
        "recordsImported": result.pop("recordsImported"),
        "completedAt": result.pop("completedAt"),
        **result,
    }


def _result(file: File) -> dict[str, Any]:
    error = file.error
    said = f"{error.message}. {error.remedy or ''}".strip() if error else None
    return {
        "recordsImported": file.imported,
        "recordsRejected": file.rejected,
        "rejectReasons": [
            {"code": r.code, "count": r.count, "firstLine": r.first_line, "example": r.example}
            for r in file.reasons
        ],
        "errorMessage": said,
        "completedAt": wire.moment(file.completed_at),
    }


def preview(file: File, rows: int, details: bool) -> str:
    """JSON text, since a number in it keeps all of its digits."""
    found = file.profile
    assert found is not None
    head = json.dumps(
        {
            "fileId": file.id,
            "fileName": file.name,
            "columns": [
                {"name": c.name, "type": c.type, "nullable": c.nullable, "sampleValues": c.samples}
                for c in found.columns
            ],
        }
    )
    tail: dict[str, Any] = {
        "totalRows": found.rows,
        "inferredTypes": {c.name: c.type for c in found.columns},
    }
    if details:
        tail |= {"warnings": found.warnings, "sheets": found.sheets, "dialect": dict(found.dialect)}
    shown = ", ".join(found.preview[:rows])
    return f'{head[:-1]}, "previewRows": [{shown}], {json.dumps(tail)[1:]}'


def rejection(found: FileReject) -> dict[str, Any]:
    return {name: getattr(found, name) for name in FileReject.__slots__}


def plan_of(body: Mapping[str, Any]) -> ImportPlan:
    """Raises Refused (400) that names the first field that is wrong."""
    table = wire.text_of(body, "targetTableName", "Target table name", 128, required=True) or ""
    namespace = wire.text_of(body, "targetSchema", "Target schema", 1000) or None
    columns = _texts(body, "columnMappings", nullable=True)
    types = {name: text for name, text in _texts(body, "columnTypes", nullable=False).items() if text}
    mode = "APPEND" if body.get("writeMode") is None else body["writeMode"]
    if not isinstance(mode, str) or mode not in MODES:
        raise Refused(400, f"writeMode must be one of {', '.join(MODES)}")
    most = body.get("maxRejected")
    if most is not None and (not isinstance(most, int) or isinstance(most, bool) or most < 0):
        raise Refused(400, "maxRejected must be a number of rows, or null")
    return ImportPlan(
        table=table, namespace=namespace, columns={k: v or None for k, v in columns.items()}, types=types,
        mode=MODES[mode], max_rejected=most,
    )  # fmt: skip


def options_of(body: Mapping[str, Any]) -> ReadOptions | None:
    """How the file shall be read; None when the body does not say. Raises Refused (400)."""
    given = body.get("readOptions")
    if given is None:
        return None
    if not isinstance(given, dict):
        raise Refused(400, "readOptions must be an object")
    known = {*_TEXTS, "header", "nullValues", "skipRows"}
    if unknown := sorted(set(given) - known):
        raise Refused(400, f"readOptions has no {unknown[0]}; it has {', '.join(sorted(known))}")
    texts = {name: _text(given, name) for name in _TEXTS}
    header = given.get("header")
    skip = 0 if given.get("skipRows") is None else given["skipRows"]
    nulls = [] if given.get("nullValues") is None else given["nullValues"]
    if header is not None and not isinstance(header, bool):
        raise Refused(400, "readOptions.header must be true or false")
    if not isinstance(skip, int) or isinstance(skip, bool) or not 0 <= skip <= 1_000_000:
        raise Refused(400, "readOptions.skipRows must be a number of rows")
    if not isinstance(nulls, list) or not all(isinstance(n, str) for n in nulls) or len(nulls) > 100:
        raise Refused(400, "readOptions.nullValues must be a list of texts")
    return ReadOptions(**texts, header=header, skip_rows=skip, null_values=tuple(nulls))


def _text(given: Mapping[str, Any], name: str) -> str | None:
    value = given.get(name)
    if value is not None and (not isinstance(value, str) or not value or "\0" in value):
        raise Refused(400, f"readOptions.{name} must be text")
    return value


def _texts(body: Mapping[str, Any], name: str, *, nullable: bool) -> dict[str, str | None]:
    given = body.get(name)
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise Refused(400, f"{name} must be an object")
    for column, text in given.items():
        if not (isinstance(text, str) and "\0" not in text) and not (nullable and text is None):
            raise Refused(400, f"{name}.{column} must be text")
    return given
