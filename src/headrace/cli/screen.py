"""All that is printed: data to stdout, talk to stderr, and no secret or foreign control code to either."""

from __future__ import annotations

import json
import os
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TextIO

from headrace.cli.options import Common
from headrace.errors import HeadraceError
from headrace.model.run import ErrorReport

if TYPE_CHECKING:  # loaded when a terminal is written to: most runs that are timed have none
    from rich.console import Console

VERSION = 1
"""Of the JSON shapes: grows when a member changes its meaning or goes away."""

HIDDEN = "********"
_USERINFO = re.compile(r"(?<=://)([^/@\s:]*):(?!\$\{\w+\}@)[^/@\s]+@")  # ${NAME} may show
_NOTHING = ("", "–", "0")
_FOLDS = 16  # characters of a name that stay on one line
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: its title, and the key of a row or a function of it that gives the text.

    On a terminal, which is narrow, an `optional` column is left out when no row has anything to say in
    it, and a `spare` one, the highest first, when there is no room for all. Elsewhere the columns are
    always the same.
    """

    title: str
    value: str | Callable[[Mapping[str, Any]], Any]
    right: bool = False
    style: str | Callable[[Mapping[str, Any]], str] = ""
    whole: bool = False  # never cut over several lines
    optional: bool = False
    spare: int = 0

    def cell(self, row: Mapping[str, Any]) -> tuple[str, str]:
        value = row.get(self.value) if isinstance(self.value, str) else self.value(row)
        style = self.style if isinstance(self.style, str) else self.style(row)
        return text(value), style


def text(value: Any) -> str:
    """A value as people read it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)


def many(count: int, thing: str) -> str:
    """`1 row`, `2,000 rows`."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def size(count: float | None) -> str:
    """Bytes as people read them."""
    if count is None:
        return "–"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


class Screen:
    """One command's stdout and stderr. Not for several threads."""

    def __init__(self, common: Common):
        self.common = common
        self.format = "json" if common.json else common.output
        self.debug = common.debug or common.verbose > 1
        self._stdout, self._stderr = sys.stdout, sys.stderr
        self._secrets: set[str] = set()
        self._public: set[str] = set()

    @cached_property
    def _out(self) -> Console:
        return self._console(self._stdout)

    @cached_property
    def err(self) -> Console:
        """stderr, where it is a terminal."""
        return self._console(self._stderr)

    def _console(self, terminal: TextIO) -> Console:
        from rich.console import Console

        plain = self.common.no_color or bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
        return Console(
            file=terminal, force_terminal=True, color_system=None if plain else "auto",
            markup=False, highlight=False, emoji=False,
        )  # fmt: skip

    @property
    def live(self) -> bool:
        """May progress be redrawn in place?"""
        return self._stderr.isatty() and self.format == "table" and not self.common.quiet

    @property
    def narrow(self) -> bool:
        """Is stdout a terminal?"""
        return self._stdout.isatty()

    @property
    def asks(self) -> bool:
        """Is there a person who can answer a question?"""
        return sys.stdin.isatty() and sys.stderr.isatty()

    def hide(self, secrets: Iterable[str], public: Iterable[str] = ()) -> None:
        """Never print these; a word that is public anyway (a user or connector of that name) still shows."""
        self._secrets.update(s for s in secrets if s)
        self._public.update(public)

    def clean(self, value: str) -> str:
        """Without secrets, and without what would steer a terminal or forge a line."""
        value = _USERINFO.sub(rf"\1:{HIDDEN}@", value)
        for secret in sorted(self._secrets - self._public, key=len, reverse=True):
            for form in {secret, json.dumps(secret)[1:-1]}:
                if len(secret) < 4:  # too short to be told from chance within a word
                    value = re.sub(rf"(?<!\w){re.escape(form)}(?!\w)", HIDDEN, value)
                else:
                    value = value.replace(form, HIDDEN)
        return _CONTROL.sub(lambda m: m[0].encode("unicode_escape").decode(), value)

    def line(self, value: str) -> str:
        """`clean`, and on one line."""
        return self.clean(value).replace("\n", "\\n")

    # stderr

    def say(self, message: str, *, style: str = "", verbose: bool = False) -> None:
        """One line of talk; with `verbose` only where -v asks for it."""
        if not self.common.quiet and (self.common.verbose or not verbose):
            self._tell((self.clean(message), style))

    def warn(self, message: str) -> None:
        if not self.common.quiet:
            self._tell(("warning: ", "yellow"), (self.clean(message), ""))

    def complain(self, report: ErrorReport, *, about: str | None = None) -> None:
        """An error with its cause and cure."""
        head = f"{self.line(about)}: " if about else ""
        self._tell(("error: ", "bold red"), (head + self.clean(report.message), ""))
        for name, value in (("code", report.code), ("field", report.field), ("remedy", report.remedy)):
            if value:
                self._tell((f"  {name:<8}", "dim"), (self.clean(value), ""))

    def trace(self, lines: str) -> None:
        """A stack trace, for those who asked."""
        self._tell((self.clean(lines), "dim"))

    def _tell(self, *parts: tuple[str, str]) -> None:
        """A line to stderr, of texts and their styles."""
        if not self._stderr.isatty():
            self._stderr.write("".join(words for words, _ in parts) + "\n")
            self._stderr.flush()
            return
        from rich.text import Text

        self.err.print(Text.assemble(*parts), soft_wrap=True)

    def fail(self, error: HeadraceError) -> None:
        """The command's last word: the error for people, and for programs that wait for a document."""
        report = ErrorReport.of(error)
        self.complain(report)
        if self.format == "json":
            self.document({"error": error_json(report)})
        elif self.format == "ndjson":
            self.event("error", error_json(report))

    # stdout

    def document(self, members: Mapping[str, Any]) -> None:
        """One JSON document, the whole of stdout."""
        self._write(json.dumps({"version": VERSION, **members}, indent=2, ensure_ascii=False, default=str))

    def event(self, kind: str, members: Mapping[str, Any]) -> None:
        """One line of NDJSON."""
        self._write(
            json.dumps({"version": VERSION, "event": kind, **members}, ensure_ascii=False, default=str)
        )

    def rows(
        self, kind: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], *, none: str = ""
    ) -> None:
        """Like things in the format asked for: `kind` names the member of the document.

        `none` is said when there is nothing to show.
        """
        if self.format == "json":
            self.document({kind: rows})
        elif self.format == "ndjson":
            for row in rows:
                self.event(kind.removesuffix("s"), row)
        elif rows:
            self.table(rows, columns)
        elif none:
            self.say(none)

    def table(self, rows: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> None:
        if not self.narrow:
            self._lines(rows, columns)
            return
        from rich.table import Table
        from rich.text import Text

        columns = [c for c in columns if not c.optional or any(c.cell(r)[0] not in _NOTHING for r in rows)]
        while (spare := max(c.spare for c in columns)) and _least(columns, rows) > self._out.width:
            columns = [c for c in columns if c.spare < spare]
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for column in columns:
            table.add_column(
                column.title,
                justify="right" if column.right else "left",
                no_wrap=column.whole or column.right,
                overflow="fold",
            )
        for row in rows:
            cells = [c.cell(row) for c in columns]
            table.add_row(*(Text(self.line(value), style=style) for value, style in cells))
        self._out.print(table)

    def _lines(self, rows: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> None:
        """A table as plain lines, for programs and files."""
        cells = [[c.title for c in columns], *([self.line(c.cell(row)[0]) for c in columns] for row in rows)]
        widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
        for line in cells:
            padded = []
            for column, cell, width in zip(columns, line, widths, strict=True):
                space = " " * (width - _width(cell))
                padded.append(space + cell if column.right else cell + space)
            self._stdout.write("  ".join(padded).rstrip() + "\n")

    def print(self, value: str) -> None:
        """Text that is data in itself: a script, a file, a log."""
        self._write(value)

    def _write(self, value: str) -> None:
        self._stdout.write(self.clean(value) + "\n")
        self._stdout.flush()


def _width(shown: str) -> int:
    """The places that a text takes where letters are of one width: two for those of East Asia."""
    if shown.isascii():
        return len(shown)
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else not unicodedata.combining(c) for c in shown)


def _least(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> int:
    """The width below which a table is hard to read: names may be cut over lines, but not into crumbs."""
    widths = [max(len(c.title), *(len(c.cell(row)[0]) for row in rows)) for c in columns]
    least = [w if c.whole or c.right else min(w, _FOLDS) for c, w in zip(columns, widths, strict=True)]
    return sum(least) + 2 * (len(least) - 1)


def error_json(report: ErrorReport) -> dict[str, Any]:
    """The one shape of an error in every JSON document."""
    return {
        "code": report.code,
        "message": report.message,
        "field": report.field,
        "remedy": report.remedy,
        "exit_code": report.exit_code,
    }
