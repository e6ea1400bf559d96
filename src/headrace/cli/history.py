"""`headrace status`, `logs` and `cancel`: what runs, how it ended, what it said, and its early end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from headrace.cli.progress import STYLES, run_json
from headrace.cli.screen import Column, Screen
from headrace.control.access import OPERATOR, Actor
from headrace.errors import NotFoundError

if TYPE_CHECKING:
    from headrace.cli.session import Session
    from headrace.model.run import LogLine

Workspace = Annotated[
    str | None, Option("--workspace", help="Another than this machine's own: see headrace workspace list.")
]


def status(
    screen: Screen,
    pipeline: Annotated[str | None, Argument(help="Only this pipeline.")] = None,
    limit: Annotated[int, Option("--limit", "-n", min=1, max=1000, help="How many runs.")] = 20,
    streams: Annotated[bool, Option("--streams", help="A line for each stream.")] = False,
    workspace: Workspace = None,
) -> None:
    """Show the latest runs, those that wait among them, the newest first.

    \b
    headrace status
    headrace status nightly --streams
    """
    from headrace.cli.session import Session

    rows: list[dict[str, Any]] = []
    with Session(screen) as session:
        if session.remembers:
            actor = _enter(session, workspace)
            id = session.remembered(pipeline, actor).id if pipeline else None
            rows = [run_json(run) for run in session.platform.runs.list(actor, id, limit)]
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
    Column(
        "status",
        lambda row: "cancelling" if row["cancelling"] else row["status"],
        style=lambda row: STYLES[row["status"]],
        whole=True,
    ),
    Column("by", lambda row: row["trigger"] if row["trigger"] != "manual" else "", optional=True, spare=5),
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
    workspace: Workspace = None,
) -> None:
    """Print a run's log.

    \b
    headrace logs
    headrace logs -f 3f2a91c0
    """
    from headrace.cli.session import Session
    from headrace.control.follow import follow as lines_of
    from headrace.control.follow import so_far

    with Session(screen) as session:
        actor = _enter(session, workspace)
        id = _find(session, run, actor)
        runs = session.platform.runs
        lines = lines_of(runs, id, lambda: actor) if follow else so_far(runs, id, actor)
        if screen.format == "json":
            screen.document({"run": id, "lines": [_json(line) for line in lines]})
            return
        for line in lines:
            _print(screen, line)


def cancel(
    screen: Screen,
    run: Annotated[str, Argument(help="A run, by the start of its id.")],
    workspace: Workspace = None,
) -> None:
    """End a run early: at its next checkpoint, or within half a minute, with nothing half committed.

    \b
    headrace cancel 3f2a91c0
    """
    from headrace.cli.session import Session

    with Session(screen) as session:
        actor = _enter(session, workspace)
        asked = session.platform.runs.cancel(actor, _find(session, run, actor))
    screen.rows("runs", [run_json(asked)], _RUN)


def _enter(session: Session, workspace: str | None) -> Actor:
    if workspace is None:
        return OPERATOR
    return session.platform.workspaces.enter(OPERATOR, workspace)


def _find(session: Session, prefix: str | None, actor: Actor) -> str:
    runs = session.platform.runs.list(actor, limit=1000) if session.remembers else []
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
