"""A file that somebody uploaded, what it holds, and its import into a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from headrace.model.run import ErrorReport

FORMATS = ("csv", "xlsx", "xls", "parquet", "json", "jsonl", "avro")


class FileStatus(StrEnum):
    """uploaded → previewing → importing → completed | failed; failed → previewing | importing."""

    UPLOADED = "uploaded"
    PREVIEWING = "previewing"
    IMPORTING = "importing"
    COMPLETED = "completed"
    FAILED = "failed"


class ImportMode(StrEnum):
    """What an import does to a table that is there already."""

    APPEND = "append"
    REPLACE = "replace"
    FAIL_IF_EXISTS = "fail_if_exists"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """How a file is read; None leaves it to the file.

    `delimiter` to `null_values` and `skip_rows` are for csv, `header`, `sheet` and `skip_rows` for
    workbooks as well.
    """

    delimiter: str | None = None
    quote: str | None = None
    escape: str | None = None
    encoding: str | None = None
    header: bool | None = None
    null_values: tuple[str, ...] = ()
    sheet: str | None = None
    skip_rows: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportPlan:
    """Where a file's rows go. `columns` maps a column of the file to one of the table, None leaves it
    out, and one that is absent keeps its name. `types` maps a column of the file to a type by name.

    More than `max_rejected` rejected rows fail the import; None never does.
    """

    table: str
    namespace: str | None = None
    columns: Mapping[str, str | None] = field(default_factory=dict)
    types: Mapping[str, str] = field(default_factory=dict)
    mode: ImportMode = ImportMode.APPEND
    max_rejected: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileColumn:
    """A column as the whole file shows it: `samples` are up to three different texts of the source."""

    name: str
    type: str
    nullable: bool
    samples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FileProfile:
    """What one pass over a whole file found out.

    `rows` counts rows that can't be read as well. `preview` holds the first rows, each as JSON text
    whose numbers have all their digits. `schema` is the columns' Arrow schema, serialised, in base64.
    """

    columns: tuple[FileColumn, ...]
    rows: int
    preview: tuple[str, ...]
    schema: str
    warnings: tuple[str, ...] = ()
    sheets: tuple[str, ...] = ()
    dialect: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        columns = [[c.name, c.type, c.nullable, list(c.samples)] for c in self.columns]
        return {
            "columns": columns,
            "rows": self.rows,
            "preview": list(self.preview),
            "schema": self.schema,
            "warnings": list(self.warnings),
            "sheets": list(self.sheets),
            "dialect": dict(self.dialect),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> FileProfile:
        return cls(
            columns=tuple(
                FileColumn(name=name, type=type, nullable=nullable, samples=tuple(samples))
                for name, type, nullable, samples in data["columns"]
            ),
            rows=data["rows"],
            preview=tuple(data["preview"]),
            schema=data["schema"],
            warnings=tuple(data["warnings"]),
            sheets=tuple(data["sheets"]),
            dialect=data["dialect"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectReason:
    """Why rows were rejected: how many for one reason, and the first of them."""

    code: str
    count: int
    first_line: int
    example: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileReject:
    """A row that could not be imported; `line` is that of a text file, or the row's number elsewhere."""

    line: int
    column: str | None
    code: str
    message: str
    raw: str


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """`key` is where the content lies in the storage; `removed` says that it is gone from there.

    `imported` and `rejected` count rows; they are None until an import has begun to publish.
    """

    id: str
    workspace: str
    name: str
    format: str
    size: int
    sha256: str
    key: str
    status: FileStatus
    created_at: datetime
    created_by: str = ""
    options: ReadOptions = field(default_factory=ReadOptions)
    plan: ImportPlan | None = None
    profile: FileProfile | None = None
    error: ErrorReport | None = None
    imported: int | None = None
    rejected: int | None = None
    reasons: tuple[RejectReason, ...] = ()
    completed_at: datetime | None = None
    removed: bool = False
