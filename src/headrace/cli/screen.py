"""All that is printed: data to stdout, talk to stderr, and no secret or foreign control code to either."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from headrace.cli.options import Common
from headrace.errors import HeadraceError
from headrace.model.run import ErrorReport

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
        plain = common.no_color or bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
        self._out = self._console(sys.stdout, plain)
        self._err = self._console(sys.stderr, plain)
        self._secrets: set[str] = set()
        self._public: set[str] = set()

    def _console(self, stream: TextIO, plain: bool) -> Console:
        terminal = stream.isatty()
        return Console(
            file=stream, force_terminal=terminal, color_system=None if plain or not terminal else "auto",
            width=None if terminal else 10_000, soft_wrap=not terminal,
            markup=False, highlight=False, emoji=False,
        )  # fmt: skip

    @property
    def live(self) -> bool:
        """May progress be redrawn in place?"""
        return self._err.is_terminal and self.format == "table" and not self.common.quiet

    @property
    def narrow(self) -> bool:
        """Is stdout a terminal?"""
        return self._out.is_terminal

    @property
    def asks(self) -> bool:
        """Is there a person who can answer a question?"""
        return sys.stdin.isatty() and sys.stderr.isatty()

    @property
    def err(self) -> Console:
        return self._err

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
            self._err.print(Text(self.clean(message), style=style), soft_wrap=True)

    def warn(self, message: str) -> None:
        if not self.common.quiet:
            self._err.print(Text.assemble(("warning: ", "yellow"), self.clean(message)), soft_wrap=True)

    def complain(self, report: ErrorReport, *, about: str | None = None) -> None:
        """An error with its cause and cure."""
        head = f"{self.line(about)}: " if about else ""
        self._err.print(
            Text.assemble(("error: ", "bold red"), head, self.clean(report.message)), soft_wrap=True
        )
        for name, value in (("code", report.code), ("field", report.field), ("remedy", report.remedy)):
            if value:
                self._err.print(Text.assemble((f"  {name:<8}", "dim"), self.clean(value)), soft_wrap=True)

    def trace(self, lines: str) -> None:
        """A stack trace, for those who asked."""
        self._err.print(Text(self.clean(lines), style="dim"), soft_wrap=True)

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
        console = self._out
        if console.is_terminal:
            columns = [
                c for c in columns if not c.optional or any(c.cell(r)[0] not in _NOTHING for r in rows)
            ]
            while (spare := max(c.spare for c in columns)) and _least(columns, rows) > console.width:
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
        if console.is_terminal:
            console.print(table)
            return
        buffer = Console(file=io.StringIO(), width=10_000, color_system=None, force_terminal=False)
        buffer.print(table)
        lines = buffer.file.getvalue().splitlines()  # type: ignore[attr-defined]
        console.file.write("".join(f"{line.rstrip()}\n" for line in lines))

    def print(self, value: str) -> None:
        """Text that is data in itself: a script, a file, a log."""
        self._write(value)

    def _write(self, value: str) -> None:
        self._out.file.write(self.clean(value) + "\n")
        self._out.file.flush()


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
