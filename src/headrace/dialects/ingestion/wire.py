"""How the Ingestion API spells things: times, pages, column types, and the fields of a body."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import pyarrow as pa
from pydantic import BaseModel

from headrace.dialects.ingestion.errors import Refused

SyncMode = Literal["FULL_REFRESH", "INCREMENTAL", "CDC"]
CONNECTOR_TYPES = (
    "postgres", "mysql", "mongodb", "mssql", "oracle", "salesforce", "hubspot", "stripe", "s3", "gcs",
    "azure-blob-storage", "sftp-bulk", "github", "jira", "zendesk",
)  # fmt: skip
"""Those of the contract, in its order; further ones are in the catalogue alone."""


class Source(BaseModel):
    id: str
    name: str
    description: str | None
    connectorType: str
    status: Literal["INACTIVE", "ACTIVE", "ERROR"]
    lastTestedAt: str | None
    createdAt: str


class Column(BaseModel):
    name: str
    type: str
    nullable: bool
    sampleValues: list[str]


class Stream(BaseModel):
    name: str
    columns: list[Column]
    supportedSyncModes: list[SyncMode]


class Streams(BaseModel):
    streams: list[Stream]


class Connection(BaseModel):
    id: str
    sourceId: str
    sourceName: str
    name: str
    destinationType: str
    syncSchedule: str | None
    syncMode: SyncMode
    status: Literal["PENDING", "ACTIVE", "ERROR", "PAUSED"]
    lastSyncAt: str | None
    createdAt: str


class Sync(BaseModel):
    id: str
    connectionId: str
    connectionName: str
    status: Literal["RUNNING", "SUCCEEDED", "FAILED", "CANCELLED"]
    recordsSynced: int | None
    bytesSynced: int | None
    startedAt: str
    completedAt: str | None
    durationMs: int | None


class SyncPage(BaseModel):
    content: list[Sync]
    totalElements: int
    totalPages: int
    number: int
    size: int
    first: bool
    last: bool
    numberOfElements: int
    empty: bool


FileState = Literal["UPLOADED", "PREVIEWING", "IMPORTING", "COMPLETED", "FAILED"]


class RejectReason(BaseModel):
    code: str
    count: int
    firstLine: int
    example: str


class Uploaded(BaseModel):
    id: str
    tenantId: str
    fileName: str
    fileSize: int
    fileFormat: str
    storagePath: str
    status: FileState
    createdAt: str


class FileImportJob(Uploaded):
    targetTableName: str | None
    targetSchema: str | None
    columnMappings: dict[str, str | None]
    recordsImported: int | None
    recordsRejected: int | None
    rejectReasons: list[RejectReason]
    errorMessage: str | None
    completedAt: str | None


class FilePreview(BaseModel):
    fileId: str
    fileName: str
    columns: list[Column]
    previewRows: list[dict[str, Any]]
    totalRows: int
    inferredTypes: dict[str, str]


class ImportStarted(BaseModel):
    id: str
    fileName: str
    targetTableName: str
    targetSchema: str
    status: FileState
    createdAt: str


class ImportStatus(BaseModel):
    id: str
    fileName: str
    status: FileState
    recordsImported: int | None
    completedAt: str | None
    recordsRejected: int | None
    rejectReasons: list[RejectReason]
    errorMessage: str | None


class Rejection(BaseModel):
    line: int
    column: str | None
    code: str
    message: str
    raw: str


class RejectionPage(BaseModel):
    content: list[Rejection]
    totalElements: int
    totalPages: int
    number: int
    size: int
    first: bool
    last: bool
    numberOfElements: int
    empty: bool


class Tuning(BaseModel):
    batchSize: int
    parallelism: int
    checkpointIntervalSec: int
    maxRetries: int
    retryBackoffMs: int
    dlqEnabled: bool


class ConnectorEntry(BaseModel):
    type: str
    name: str
    category: str
    documentationUrl: str
    iconUrl: str | None
    supportedSyncModes: list[SyncMode]
    supportsCdc: bool
    runnable: bool
    notRunnableReason: str | None


class ConnectorSpecification(BaseModel):
    documentationUrl: str
    connectionSpecification: dict[str, Any]


class Error(BaseModel):
    timestamp: str
    status: int
    error: str
    message: str
    path: str


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": Error} for status in (400, 401, 403, 404, 405, 409, 413, 415, 429, 500, 503)
}

_NAME = {"type": "string", "minLength": 1, "maxLength": 255}
SOURCE_BODY: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": _NAME,
        "description": {"type": ["string", "null"], "maxLength": 2000},
        "connectorType": {"type": "string"},
        "connectionConfig": {"type": "object"},
    },
    "required": ["name", "connectorType", "connectionConfig"],
}
CONNECTION_BODY: dict[str, Any] = {
    "type": "object",
    "properties": {
        "sourceId": {"type": "string", "format": "uuid"},
        "name": _NAME,
        "destinationType": {"enum": ["iceberg", "parquet", "postgres", "oracle", "kafka", None]},
        "syncSchedule": {"type": ["string", "null"]},
        "selectedStreams": {"type": ["array", "null"], "items": {"type": "string"}, "minItems": 1},
        "syncMode": {"enum": ["FULL_REFRESH", "INCREMENTAL", "CDC", None]},
        "cursorFields": {"type": ["object", "null"], "additionalProperties": {"type": "string"}},
    },
    "required": ["sourceId", "name"],
}

_TEXTS = {"type": ["object", "null"], "additionalProperties": {"type": ["string", "null"]}}
_PART = "[A-Za-z_][A-Za-z0-9_]{0,127}"
_CHARACTER = {"type": ["string", "null"], "minLength": 1, "maxLength": 1}
SCHEMA_BODY: dict[str, Any] = {
    "type": "object",
    "properties": {
        "targetTableName": {"type": "string", "pattern": f"^{_PART}$"},
        "targetSchema": {"type": ["string", "null"], "pattern": rf"^({_PART}(\.{_PART})*)?$"},
        "columnMappings": _TEXTS,
        "columnTypes": {"type": ["object", "null"], "additionalProperties": {"type": "string"}},
        "readOptions": {
            "type": ["object", "null"],
            "properties": {
                "delimiter": _CHARACTER,
                "quote": _CHARACTER,
                "escape": _CHARACTER,
                "encoding": {"type": ["string", "null"], "minLength": 1},
                "header": {"type": ["boolean", "null"]},
                "nullValues": {"type": ["array", "null"], "items": {"type": "string"}, "maxItems": 100},
                "sheet": {"type": ["string", "null"], "minLength": 1},
                "skipRows": {"type": ["integer", "null"], "minimum": 0, "maximum": 1_000_000},
            },
            "additionalProperties": False,
        },
        "writeMode": {"enum": ["APPEND", "REPLACE", "FAIL_IF_EXISTS", None]},
        "maxRejected": {"type": ["integer", "null"], "minimum": 0},
    },
    "required": ["targetTableName"],
}
UPLOAD_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"file": {"type": "string", "format": "binary"}},
                    "required": ["file"],
                }
            }
        },
    }
}


def takes(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The part of an operation's description that says what its body is like."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": dict(schema)}}}}


def moment(at: datetime | None) -> str | None:
    return None if at is None else instant(at)


def age(at: datetime | None) -> datetime:
    """For sorting; what has none is older than all."""
    return at or datetime.min.replace(tzinfo=UTC)


def instant(at: datetime) -> str:
    """UTC, whole seconds."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def page(content: Sequence[Any], total: int, number: int, size: int) -> dict[str, Any]:
    pages = -(-total // size)
    return {
        "content": content,
        "totalElements": total,
        "totalPages": pages,
        "number": number,
        "size": size,
        "first": number == 0,
        "last": number + 1 >= pages,
        "numberOfElements": len(content),
        "empty": not content,
    }


def whole(text: str | None, default: int, least: int, most: int | None = None) -> int:
    """A number of a query: what is none, or too small, is the default; what is too large, the largest."""
    try:
        number = int(text or "")
    except ValueError:
        return default
    if number < least:
        return default
    return number if most is None else min(number, most)


def text_of(
    body: Mapping[str, Any], name: str, label: str, most: int, *, required: bool = False
) -> str | None:
    """A text of a body; None where it is absent or null. Raises Refused (400)."""
    value = body.get(name)
    if value is None or (isinstance(value, str) and required and not value.strip()):
        if required:
            raise Refused(400, f"{label} is required")
        return None
    if not isinstance(value, str):
        raise Refused(400, f"{label} must be text")
    if len(value) > most:
        raise Refused(400, f"{label} must not be longer than {most} characters")
    if "\0" in value:
        raise Refused(400, f"{label} must not hold NUL")
    return value


def column_type(kind: pa.DataType) -> str:
    """The name of an Arrow type in the vocabulary of this API."""
    types = pa.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    for fits, name in (
        (types.is_boolean, "BOOLEAN"),
        (types.is_integer, "INTEGER"),
        (types.is_decimal, "DECIMAL"),
        (types.is_floating, "DOUBLE"),
        (types.is_date, "DATE"),
        (types.is_time, "TIME"),
    ):
        if fits(kind):
            return name
    if types.is_timestamp(kind):
        return "TIMESTAMP_TZ" if kind.tz else "TIMESTAMP"
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return "BINARY"
    return "JSON" if types.is_nested(kind) else "STRING"
