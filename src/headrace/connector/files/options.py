"""How files are written, as a user may say it; imports no reader."""

from __future__ import annotations

import codecs
from dataclasses import dataclass, field
from enum import StrEnum

from pydantic import field_validator

from headrace.connector.config import Config, setting


class Format(StrEnum):
    """How the files are written."""

    CSV = "csv"
    TSV = "tsv"
    JSON = "json"  # an array of objects, one object, or several in a row
    JSONL = "jsonl"  # an object a line
    PARQUET = "parquet"


class CsvOptions(Config):
    """How csv and tsv files are written."""

    delimiter: str | None = setting(
        "Character between fields; found out from the file by default.",
        default=None,
        min_length=1,
        max_length=1,
    )
    quote: str = setting("Character around fields.", default='"', min_length=1, max_length=1)
    header: bool | None = setting(
        "Does the first row hold the names? Found out from the file by default.", default=None
    )
    encoding: str | None = setting(
        "Encoding of the text; the default is UTF-8, or windows-1252 for files that are not.", default=None
    )
    null_values: tuple[str, ...] = setting(
        "Unquoted texts that mean null, besides the empty one.", default=(), examples=[["NULL", "NA"]]
    )
    skip_lines: int = setting("Lines before the header or the first row to leave out.", default=0, ge=0)

    @field_validator("encoding")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        try:
            codecs.lookup(value or "utf-8")
        except LookupError:
            raise ValueError(f"{value!r} is not a known encoding") from None
        return value

    @field_validator("delimiter", "quote")
    @classmethod
    def _one_byte(cls, value: str | None) -> str | None:
        if value is not None and (not value.isascii() or value in "\r\n\0"):
            raise ValueError("must be one ASCII character")
        return value


class FileFormat(CsvOptions):
    """How the files are written."""

    type: Format | None = setting(
        "Format of the files; the default is told by each file's name.", default=None
    )

    @property
    def csv(self) -> CsvOptions:
        return CsvOptions.parse(self.model_dump(exclude={"type"}))


@dataclass(frozen=True, slots=True)
class Options:
    """How to read files; without `format` each file's name tells."""

    format: Format | None = None
    csv: CsvOptions = field(default_factory=CsvOptions)
