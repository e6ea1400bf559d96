"""A file that is about to be read: its bytes, its kind, and how it shall be read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO

import pyarrow as pa

from headrace.connector.files.part import RowError
from headrace.connector.upload.kinds import Kind
from headrace.errors import DataError
from headrace.model.file import ReadOptions


@dataclass(frozen=True)
class Opened:
    """`file` is a seekable reader; `name` is for messages."""

    file: IO[bytes]
    name: str
    kind: Kind
    options: ReadOptions


def all_text(names: list[str]) -> pa.Schema:
    return pa.schema([(name, pa.string()) for name in names])


def settled(schema: pa.Schema) -> pa.Schema:
    """Columns that have no value are text."""
    return pa.schema([(f.name, pa.string() if pa.types.is_null(f.type) else f.type) for f in schema])


def warn_of(errors: int, first: RowError | None) -> list[str]:
    """A warning for rows that will be rejected."""
    if first is None:
        return []
    rows = "1 row" if errors == 1 else f"{errors} rows"
    return [f"{rows} can't be read, the first at line {first.line}: {first.reason}"]


def no_columns(name: str) -> DataError:
    return DataError(
        "upload.no_columns",
        f"{name} holds no columns",
        field="file",
        remedy="Send a file that has a header or rows.",
    )


def column_names(first: list[str], *, header: bool) -> list[str]:
    """Names of the columns: empty ones by place, repeated ones (whatever their case) with a number."""
    taken: set[str] = set()
    names = []
    for number, cell in enumerate(first, 1):
        wanted = name = (cell.strip() if header else "") or f"column_{number}"
        again = 2
        while name.lower() in taken:
            name, again = f"{wanted}_{again}", again + 1
        taken.add(name.lower())
        names.append(name)
    return names
