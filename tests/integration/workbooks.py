"""Workbooks for tests, written cell by cell."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

Cell = Any
"""Text, a number, a boolean, None, or XML of its own as bytes, with `@` for its place."""

_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_DOCUMENT = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_KIND = "application/vnd.openxmlformats-officedocument.spreadsheetml"

DATE, MOMENT, CLOCK = 1, 2, 3
"""Styles of a cell."""
_FORMATS = (0, 14, 22, 20)


def workbook(
    sheets: Mapping[str, Sequence[Sequence[Cell]]],
    *,
    hidden: Sequence[str] = (),
    more: Mapping[str, bytes] | None = None,
) -> bytes:
    """The bytes of an xlsx file; `more` are further members of it."""
    listed = related = types = ""
    members: dict[str, str] = {}
    for number, (name, rows) in enumerate(sheets.items(), 1):
        path = f"worksheets/sheet{number}.xml"
        state = "hidden" if name in hidden else "visible"
        listed += f'<sheet name="{escape(name)}" sheetId="{number}" state="{state}" r:id="r{number}"/>'
        related += _relation(f"r{number}", "worksheet", path)
        types += _part(f"/xl/{path}", "worksheet")
        members[f"xl/{path}"] = _sheet(rows)
    styles = "".join(f'<xf numFmtId="{n}" applyNumberFormat="1"/>' for n in _FORMATS)
    members["xl/styles.xml"] = f'<styleSheet xmlns="{_MAIN}"><cellXfs>{styles}</cellXfs></styleSheet>'
    members["xl/workbook.xml"] = (
        f'<workbook xmlns="{_MAIN}" xmlns:r="{_DOCUMENT}"><sheets>{listed}</sheets></workbook>'
    )
    members["xl/_rels/workbook.xml.rels"] = _relations(related + _relation("s", "styles", "styles.xml"))
    members["_rels/.rels"] = _relations(_relation("w", "officeDocument", "xl/workbook.xml"))
    members["[Content_Types].xml"] = (
        f'<Types xmlns="{_PACKAGE}/content-types"><Default Extension="xml" ContentType="application/xml"/>'
        f"{_part('/xl/workbook.xml', 'sheet.main')}{types}</Types>"
    )
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, text in {**members, **(more or {})}.items():
            archive.writestr(path, text)
    return out.getvalue()


def styled(value: float, style: int) -> bytes:
    """A cell whose number is shown as a date, a moment or a time."""
    return f'<c r="@" s="{style}"><v>{value}</v></c>'.encode()


def _relations(found: str) -> str:
    return f'<Relationships xmlns="{_PACKAGE}/relationships">{found}</Relationships>'


def _relation(id: str, kind: str, target: str) -> str:
    return f'<Relationship Id="{id}" Type="{_DOCUMENT}/{kind}" Target="{target}"/>'


def _part(path: str, kind: str) -> str:
    return f'<Override PartName="{path}" ContentType="{_KIND}.{kind}+xml"/>'


def _sheet(rows: Sequence[Sequence[Cell]]) -> str:
    lines = ""
    for number, row in enumerate(rows, 1):
        cells = "".join(_cell(f"{chr(65 + at)}{number}", cell) for at, cell in enumerate(row))
        lines += f'<row r="{number}">{cells}</row>'
    return f'<worksheet xmlns="{_MAIN}"><sheetData>{lines}</sheetData></worksheet>'


def _cell(place: str, cell: Cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, bytes):
        return cell.decode().replace("@", place)
    if isinstance(cell, bool):
        return f'<c r="{place}" t="b"><v>{int(cell)}</v></c>'
    if isinstance(cell, int | float):
        return f'<c r="{place}"><v>{cell}</v></c>'
    return f'<c r="{place}" t="inlineStr"><is><t>{escape(cell)}</t></is></c>'
