"""`headrace check` and `discover`: try a connection, and see what there is at its other end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, Option

from headrace.cli.command import UsageError
from headrace.cli.screen import Column, Screen, error_json, size
from headrace.errors import HeadraceError
from headrace.model.run import ErrorReport

if TYPE_CHECKING:
    from headrace.cli.session import Session
    from headrace.connector import Stream


def check(
    screen: Screen,
    connections: Annotated[
        list[str] | None, Argument(help="Names or addresses; all of headrace.yaml by default.")
    ] = None,
    side: Annotated[
        Literal["source", "target"] | None,
        Option("--as", help="Which way; by default as the pipelines use it."),
    ] = None,
) -> int:
    """Try to connect, and say what is wrong and what to do about it.

    \b
    headrace check
    headrace check shop
    headrace check postgresql://me@db/shop --as target
    """
    from headrace.cli.session import Session
    from headrace.control.connections import check as try_out
    from headrace.control.outcome import verdict

    rows: list[dict[str, Any]] = []
    errors: list[ErrorReport | None] = []
    with Session(screen) as session:
        names = connections or (session.project.connections if session.project else [])
        if not names:
            raise UsageError(
                "cli.usage", "no connection was named, and there is no headrace.yaml here",
                remedy="Give an address: headrace check postgresql://me@db/shop",
            )  # fmt: skip
        for name in names:
            for way in [side] if side else _ways(session, name):
                began = time.monotonic()
                report = None
                try:
                    endpoint = session.endpoint(name)
                    try_out(endpoint, source=way == "source")
                except HeadraceError as error:
                    report = ErrorReport.of(error)
                    screen.complain(report, about=name)
                errors.append(report)
                rows.append(
                    {
                        "connection": name,
                        "side": way,
                        "ok": report is None,
                        "seconds": round(time.monotonic() - began, 3),
                        "error": error_json(report) if report else None,
                    }
                )
    screen.rows("connections", rows, _CHECKED)
    return verdict(errors)


def _ways(session: Session, name: str) -> list[str]:
    """As what the project's pipelines use the connection; else what it can be, a source first."""
    project = session.project
    if project and name in project.connections:
        raw = project.document.get("pipelines") or {}
        used = [p for p in raw.values() if isinstance(p, Mapping)]
        ways = [
            way
            for way, key in (("source", "from"), ("target", "to"))
            if any(p.get(key) == name for p in used)
        ]
        if ways:
            return ways
    try:
        return ["source" if session.endpoint(name).spec.reads else "target"]
    except HeadraceError:
        return ["source"]  # the check itself says what is wrong


_CHECKED = (
    Column("connection", "connection"),
    Column("as", "side"),
    Column(
        "",
        lambda row: "ok" if row["ok"] else "failed",
        style=lambda row: "green" if row["ok"] else "bold red",
    ),
    Column("seconds", lambda row: f"{row['seconds']:.2f}", right=True),
    Column("error", lambda row: (row["error"] or {}).get("code") or "", style="red", optional=True),
)


def discover(
    screen: Screen,
    connection: Annotated[str, Argument(help="A connection's name or an address.")],
    include: Annotated[
        list[str] | None, Option("--include", "-s", help="Only these streams or patterns.", metavar="NAME")
    ] = None,
    exclude: Annotated[list[str] | None, Option(help="Not these.", metavar="NAME")] = None,
    columns: Annotated[bool, Option("--columns", help="Show every column.")] = False,
) -> None:
    """List what can be read: columns, keys, sizes, and columns fit to be a cursor.

    \b
    headrace discover postgresql://me@db/shop
    headrace discover shop --include 'public.*' --exclude '*_old' --columns
    """
    from headrace.cli.session import Session
    from headrace.connector import Selection
    from headrace.control.connections import discover as look

    with Session(screen) as session:
        endpoint = session.endpoint(connection)
        rows = [_stream(s) for s in look(endpoint, Selection(tuple(include or ()), tuple(exclude or ())))]
    none = "no stream matches" if include or exclude else "there is nothing to read"
    if columns and screen.format == "table":
        lines = [{"stream": row["stream"], **column} for row in rows for column in row["columns"]]
        screen.rows("columns", lines, _FIELDS, none=none)
    else:
        screen.rows("streams", rows, _STREAMS, none=none)


def _stream(stream: Stream) -> dict[str, Any]:
    keys, cursors = set(stream.primary_key), set(stream.cursors)
    return {
        "stream": stream.id,
        "kind": stream.kind,
        "rows": stream.rows,
        "bytes": stream.bytes,
        "primary_key": list(stream.primary_key),
        "cursors": list(stream.cursors),
        "columns": [
            {
                "name": field.name,
                "type": str(field.type),
                "nullable": field.nullable,
                "key": field.name in keys,
                "cursor": field.name in cursors,
            }
            for field in stream.schema
        ],
    }


def _few(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


_STREAMS = (
    Column("stream", "stream"),
    Column("kind", "kind", style="dim"),
    Column("rows", lambda row: None if row["rows"] is None else f"~{row['rows']:,}", right=True),
    Column("size", lambda row: size(row["bytes"]), right=True),
    Column("key", lambda row: _few(row["primary_key"])),
    Column("cursors", lambda row: _few(row["cursors"])),
    Column("columns", lambda row: len(row["columns"]), right=True),
)
_FIELDS = (
    Column("stream", "stream"),
    Column("column", "name"),
    Column("type", "type"),
    Column("", lambda row: "" if row["nullable"] else "not null", style="dim"),
    Column("key", lambda row: "key" if row["key"] else ""),
    Column("cursor", lambda row: "cursor" if row["cursor"] else ""),
)
