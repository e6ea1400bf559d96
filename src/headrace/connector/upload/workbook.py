"""xlsx and xls: one sheet of a workbook, read by the calamine engine."""

from __future__ import annotations

import posixpath
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any
from xml.parsers import expat

import fastexcel
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.connector.files import columnar, values
from headrace.connector.files.part import Part, check_width
from headrace.connector.upload.kinds import check_workbook, damaged
from headrace.connector.upload.opened import Opened, column_names, no_columns
from headrace.connector.upload.profile import Profiler
from headrace.errors import ConfigError, DataError
from headrace.model.file import FileProfile

_ROWS = 16_384
_LEADING = 10_000
"""Rows in which the first one that is not blank is looked for."""
_WHOLE = 2**53
_DAY_ZERO = (date(1899, 12, 30), date(1899, 12, 31), date(1904, 1, 1))
"""The days on which times without a date lie."""
_OLE2 = b"\xd0\xcf\x11\xe0"


@dataclass(frozen=True)
class _Sheet:
    """`rows` are typed; `numbers` has the number of each in the sheet, from 1."""

    rows: pa.RecordBatch
    numbers: np.ndarray
    name: str
    names: tuple[str, ...]


def profile(upload: Opened) -> FileProfile:
    """The sheet is held in memory, and so is the workbook."""
    sheet = _load(upload)
    schema = sheet.rows.schema
    profiler = Profiler(schema)
    for part in _parts(sheet, schema):
        profiler.add(part)
    warnings = []
    if upload.kind.format == "xlsx":
        errors, unstored = _lost(upload, sheet.name)
        if errors:
            warnings.append(f"{errors} cells hold an error; they are null")
        if unstored:
            warnings.append(f"{unstored} formulas have no stored result; they are null")
    return profiler.finish(
        schema,
        profiler.firsts,
        warnings=tuple(warnings),
        sheets=sheet.names,
        dialect={"sheet": sheet.name},
    )


def read(upload: Opened, schema: pa.Schema) -> Iterator[Part]:
    """The rows as `schema`, which has columns of the sheet."""
    yield from _parts(_load(upload), schema)


def _parts(sheet: _Sheet, schema: pa.Schema) -> Iterator[Part]:
    for start in range(0, sheet.rows.num_rows, _ROWS):
        part = columnar.part(sheet.rows[start : start + _ROWS], schema, 0)
        numbers = sheet.numbers[start : start + _ROWS]
        yield Part(part.rows, [e._replace(line=int(numbers[e.line])) for e in part.errors])


def _load(upload: Opened) -> _Sheet:
    reader = _open(upload)
    found = _chosen(reader, upload)
    if found is None:
        raise no_columns(upload.name)
    name, first, skipped = found
    check_width(len(first), upload.name)
    header = upload.options.header
    if header is None:
        header = not any(_is_value(cell) for cell in first)
    names = column_names([cell or "" for cell in first], header=header)
    start = skipped + header
    rows = _sheet(reader, name, skip_rows=start)
    columns = [_typed(column) for column in rows.columns][: len(names)]
    while len(columns) < len(names):
        columns.append(pa.nulls(rows.num_rows, pa.string()))
    filled = ~np.logical_and.reduce([_blank(c) for c in columns]) if columns else np.zeros(0, bool)
    batch = pa.RecordBatch.from_arrays(columns, names=list(names)).filter(pa.array(filled))
    return _Sheet(batch, np.flatnonzero(filled) + start + 1, name, tuple(reader.sheet_names))


def _open(upload: Opened) -> Any:
    head = upload.file.read(4)
    upload.file.seek(0)
    if upload.kind.format == "xlsx":
        if head == _OLE2:
            raise _locked()
        check_workbook(upload.file)
        upload.file.seek(0)
    try:
        return fastexcel.read_excel(upload.file.read())
    except fastexcel.FastExcelError as error:
        if "password" in str(error).lower() or "encrypt" in str(error).lower():
            raise _locked() from None
        raise damaged() from None


def _chosen(reader: Any, upload: Opened) -> tuple[str, list[str | None], int] | None:
    """The sheet's name, its first row that is not blank, and how many rows stand before that."""
    wanted = upload.options.sheet
    if wanted is not None and wanted not in reader.sheet_names:
        raise ConfigError(
            "upload.sheet",
            f"{upload.name} has no sheet {wanted!r}",
            field="readOptions.sheet",
            remedy=f"It has: {', '.join(reader.sheet_names)}.",
        )
    for name in [wanted] if wanted is not None else reader.sheet_names:
        try:
            sheet = reader.load_sheet(
                name, header_row=None, skip_rows=upload.options.skip_rows, n_rows=_LEADING, dtypes="string"
            )
        except fastexcel.FastExcelError:
            raise damaged() from None
        if wanted is None and sheet.visible != "visible":
            continue
        rows = sheet.to_arrow()
        for number in range(rows.num_rows):
            cells = [column[number].as_py() for column in rows.columns]
            if any(cells):
                return name, cells, upload.options.skip_rows + number
    return None


def _sheet(reader: Any, name: str, *, skip_rows: int) -> pa.RecordBatch:
    try:
        sheet = reader.load_sheet(name, header_row=None, skip_rows=skip_rows, schema_sample_rows=None)
        return sheet.to_arrow()
    except fastexcel.FastExcelError:
        # nothing stands below the header
        total = reader.load_sheet(name, header_row=None, skip_rows=0, n_rows=1, dtypes="string").total_height
        if skip_rows >= total:
            return pa.RecordBatch.from_pydict({})
        raise damaged() from None


def _typed(column: pa.Array) -> pa.Array:
    """Whole numbers as integers, midnights as dates, times of no day as times."""
    if pa.types.is_floating(column.type):
        whole = pc.and_(pc.equal(pc.floor(column), column), pc.less(pc.abs(column), float(_WHOLE)))
        return column.cast(pa.int64()) if pc.all(whole).as_py() else column
    if pa.types.is_timestamp(column.type):
        column = column.cast(values.TIMESTAMP)
        days = column.cast(pa.date32(), safe=False)
        if pc.all(pc.is_in(pc.drop_null(days), pa.array(_DAY_ZERO, pa.date32()))).as_py():
            return column.cast(values.TIME)
        return days if pc.all(pc.equal(days.cast(values.TIMESTAMP), column)).as_py() else column
    if pa.types.is_duration(column.type):
        return column.cast(pa.int64()).cast(pa.string())
    if pa.types.is_null(column.type):
        return column.cast(pa.string())
    return column.cast(values.normal(column.type))


def _blank(column: pa.Array) -> np.ndarray:
    found = pc.is_null(column)
    if pa.types.is_string(column.type):
        found = pc.or_(found, pc.fill_null(pc.equal(column, ""), True))
    blank: np.ndarray = found.to_numpy(zero_copy_only=False)
    return blank


def _is_value(cell: str | None) -> bool:
    if not cell:
        return False
    type = values.infer(pa.array([cell], pa.string()))
    return not (pa.types.is_string(type) or pa.types.is_boolean(type))


def _locked() -> DataError:
    return DataError(
        "upload.password",
        "the workbook is protected by a password",
        field="file",
        remedy="Save it without a password and send that.",
    )


# What the engine does not tell

_RELATION = "http://schemas.openxmlformats.org/officeDocument/2006/relationships id"
_PIECE = 1 << 16


def _lost(upload: Opened, sheet: str) -> tuple[int, int]:
    """How many cells of the sheet hold an error, and how many formulas have no stored result."""
    upload.file.seek(0)
    with zipfile.ZipFile(upload.file) as archive:
        path = _path_of(archive, sheet)
        if path is None:
            return 0, 0
        cells = _Cells()
        _walk(archive, path, cells.start, cells.end, cells.text)
        return cells.errors, cells.unstored


def _path_of(archive: zipfile.ZipFile, sheet: str) -> str | None:
    ids: dict[str, str] = {}
    targets: dict[str, str] = {}

    def named(tag: str, attributes: dict[str, str]) -> None:
        if _local(tag) == "sheet" and "name" in attributes:
            ids[attributes["name"]] = attributes.get(_RELATION, "")

    def related(tag: str, attributes: dict[str, str]) -> None:
        if _local(tag) == "Relationship":
            targets[attributes.get("Id", "")] = attributes.get("Target", "")

    try:
        _walk(archive, "xl/workbook.xml", named)
        _walk(archive, "xl/_rels/workbook.xml.rels", related)
    except KeyError:
        return None
    target = targets.get(ids.get(sheet, ""))
    if not target:
        return None
    path = target[1:] if target.startswith("/") else posixpath.normpath(posixpath.join("xl", target))
    return path if path in archive.namelist() else None


class _Cells:
    """Counts while a sheet's elements pass by."""

    def __init__(self) -> None:
        self.errors = self.unstored = 0
        self._formula = self._value = self._inside = False

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        match _local(tag):
            case "c":
                self._formula = self._value = False
                self.errors += attributes.get("t") == "e"
            case "f":
                self._formula = True
            case "v" | "is":
                self._inside = True

    def text(self, _text: str) -> None:
        self._value = self._value or self._inside

    def end(self, tag: str) -> None:
        match _local(tag):
            case "v" | "is":
                self._inside = False
            case "c":
                self.unstored += self._formula and not self._value


def _local(tag: str) -> str:
    return tag.rpartition(" ")[2]


def _walk(archive: zipfile.ZipFile, path: str, start: Any, end: Any = None, text: Any = None) -> None:
    """Let the elements of an XML file pass by; one with a document type is refused."""
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, text

    def refuse(*_: object) -> None:
        raise damaged()

    parser.StartDoctypeDeclHandler = refuse
    try:
        with archive.open(path) as member:
            while piece := member.read(_PIECE):
                parser.Parse(piece)
    except (expat.ExpatError, zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError):
        raise damaged() from None
