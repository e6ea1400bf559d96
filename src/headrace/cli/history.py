"""`headrace status` and `logs`: what ran, how it ended, and what it said."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from headrace.cli.progress import STYLES, run_json
from headrace.cli.screen import Column, Screen
from headrace.control.access import OPERATOR
from headrace.errors import NotFoundError

if TYPE_CHECKING:
    from headrace.cli.session import Session
    from headrace.model.run import LogLine

_LOOK = 0.5  # seconds between two looks for new lines


def status(
    screen: Screen,
    pipeline: Annotated[str | None, Argument(help="Only this pipeline.")] = None,
    limit: Annotated[int, Option("--limit", "-n", min=1, max=1000, help="How many runs.")] = 20,
    streams: Annotated[bool, Option("--streams", help="A line for each stream.")] = False,
) -> None:
    """Show the latest runs, the newest first.

    \b
    headrace status
    headrace status nightly --streams
    """
    from headrace.cli.session import Session

    rows: list[dict[str, Any]] = []
    with Session(screen) as session:
        if session.remembers:
            id = session.remembered(pipeline).id if pipeline else None
            rows = [run_json(run) for run in session.platform.runs.list(OPERATOR, id, limit)]
    if streams and screen.format == "table":
        rows = [{**run, **stream} for run in rows for stream in run["streams"]]
        screen.rows(
            "streams", rows, (*_RUN[:3], Column("stream", "stream"), *_RUN[3:]), none="nothing has run yet"
        )
    else:
        screen.rows("runs", rows, _RUN, none="nothing has run yet")


def _error(row: Mapping[str, Any]) -> str:
    errors = [row["error"], *(s["error"] for s in row.get("streams", ()))]
    codes = sorted({e["code"] for e in errors if e})
    return ", ".join(codes)


_RUN = (
    Column("run", lambda row: row["run"][:8], whole=True),
    Column("pipeline", "pipeline"),
    Column("started", lambda row: (row["started_at"] or row["queued_at"])[:19].replace("T", " "), whole=True),
    Column("status", "status", style=lambda row: STYLES[row["status"]], whole=True),
    Column(
        "seconds",
        lambda row: None if row["seconds"] is None else f"{row['seconds']:.1f}",
        right=True,
        spare=4,
    ),
    Column("retries", lambda row: row["attempt"] - 1, right=True, optional=True, spare=2),
    Column("read", "read", right=True, spare=3),
    Column("written", "written", right=True, spare=1),
    Column("rejected", "rejected", right=True, optional=True, spare=1),
    Column("error", _error, style="red", optional=True),
)


def logs(
    screen: Screen,
    run: Annotated[str | None, Argument(help="A run, by the start of its id; the latest by default.")] = None,
    follow: Annotated[bool, Option("--follow", "-f", help="Go on until the run ends.")] = False,
) -> None:
    """Print a run's log.

    \b
    headrace logs
    headrace logs -f 3f2a91c0
    """
    from headrace.cli.session import Session

    with Session(screen) as session:
        id = _find(session, run)
        runs = session.platform.runs
        after = 0
        lines: list[LogLine] = []
        while True:
            ended = runs.get(OPERATOR, id).status.ended  # looked at first, so that no last line is missed
            while more := runs.logs(OPERATOR, id, after):
                after = more[-1].line
                if screen.format == "json":
                    lines += more
                else:
                    for line in more:
                        _print(screen, line)
            if not follow or ended:
                break
            time.sleep(_LOOK)
        if screen.format == "json":
            screen.document({"run": id, "lines": [_json(line) for line in lines]})


def _find(session: Session, prefix: str | None) -> str:
    runs = session.platform.runs.list(OPERATOR, limit=1000) if session.remembers else []
    found = [run.id for run in runs if run.id.startswith(prefix or "")]
    if not found:
        raise NotFoundError(
            "cli.unknown_run",
            f"there is no run {prefix!r}" if prefix else "nothing has run yet",
            field="run",
            remedy="See the runs with: headrace status",
        )
    if prefix and len(found) > 1:
        raise NotFoundError(
            "cli.unknown_run",
            f"{len(found)} runs begin with {prefix!r}",
            field="run",
            remedy=f"Write more of the id: {', '.join(found[:3])}.",
        )
    return found[0]


def _json(line: LogLine) -> dict[str, Any]:
    return {
        "line": line.line,
        "at": line.at.isoformat(),
        "level": line.level,
        "stream": line.stream,
        "message": line.message,
    }


def _print(screen: Screen, line: LogLine) -> None:
    if screen.format == "ndjson":
        screen.event("log", {"run": line.run, **_json(line)})
        return
    about = f"{line.stream}: " if line.stream else ""
    screen.print(screen.line(f"{line.at:%Y-%m-%d %H:%M:%S} {line.level:<7} {about}{line.message}"))
