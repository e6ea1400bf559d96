"""What the readers of all formats give back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa

from headrace.errors import DataError

MAX_COLUMNS = 2000
_SHOWN = 4096


class RowError(NamedTuple):
    """A row that can't go on; `line` is that of the text file, or the row's number in other formats."""

    line: int
    code: str
    reason: str
    row: Mapping[str, Any] | str | None = None


class Part(NamedTuple):
    """Rows of the schema asked for, and those of the same stretch that could not be had."""

    rows: pa.RecordBatch
    errors: list[RowError]


@dataclass(frozen=True, slots=True)
class Sample:
    """What the beginning of a file tells. `rows` were found in `bytes`; `whole` says that this was all."""

    schema: pa.Schema
    rows: int = 0
    bytes: int = 0
    whole: bool = True


def check_width(columns: int, name: str) -> None:
    """Raises DataError for more columns than any table should have."""
    if columns > MAX_COLUMNS:
        raise DataError(
            "files.too_many_columns",
            f"{name} has more than {MAX_COLUMNS:,} columns",
            field="format",
            remedy="Check format and delimiter; JSON members that are data, not names, belong into an array.",
        )


def shorten(text: Any) -> Any:
    """At most 4 KiB of a text, and only what UTF-8 can hold, for a reject; other values pass."""
    if not isinstance(text, str):
        return text
    text = text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
    return text.encode(errors="backslashreplace").decode()
