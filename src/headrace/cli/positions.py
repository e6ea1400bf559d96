"""`headrace state`, `rewind` and `rejects`: where pipelines stand, and the one way back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from headrace.cli.command import UsageError
from headrace.cli.screen import Column, Screen, error_json
from headrace.control.access import OPERATOR
from headrace.errors import AuthError
from headrace.model.run import ErrorReport

if TYPE_CHECKING:
    from headrace.cli.request import Order
    from headrace.cli.session import Session
    from headrace.engine.plan import Outlook

_LONG = 70  # characters

Pipeline = Annotated[str, Argument(help="A pipeline of headrace.yaml, or one that ran before.")]


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """The ends of a pipeline that ran without a file: their secrets were not kept."""

    source: Annotated[str | None, Option("--source", help="The address that --from had.", metavar="URL")] = (
        None
    )
    target: Annotated[str | None, Option("--target", help="The address that --to had.", metavar="URL")] = None


def state(
    screen: Screen,
    pipeline: Pipeline,
    addresses: Addresses,
    offline: Annotated[bool, Option("--offline", help="Ask neither source nor target.")] = False,
) -> int:
    """Show where each stream stands: in the target, which is the truth, and in our memory.

    \b
    headrace state nightly
    headrace state nightly --offline --json
    """
    from headrace.cli.session import Session
    from headrace.control.outcome import verdict
    from headrace.engine.plan import position_of

    with Session(screen) as session:
        if offline:
            id = session.remembered(pipeline).id
            outlooks: list[Outlook] = []
        else:
            order, outlooks = _look(session, pipeline, addresses)
            id = order.pipeline.id
        remembered: dict[str, dict[str, Any]] = {}
        if session.remembers:
            for checkpoint in session.platform.positions.checkpoints(OPERATOR, id):
                for stream, token in checkpoint.tokens.items():
                    remembered[stream] = {
                        "position": position_of(token),
                        "saved_at": checkpoint.saved_at.isoformat(),
                    }
    rows = [
        {
            "stream": o.stream,
            "position": o.position or None,
            "remembered": remembered.pop(o.stream, None),
            "error": error_json(ErrorReport.of(o.error)) if o.error else None,
        }
        for o in outlooks
    ]
    rows += [{"stream": s, "position": None, "remembered": m, "error": None} for s, m in remembered.items()]
    errors = [ErrorReport.of(o.error) if o.error else None for o in outlooks]
    for o, report in zip(outlooks, errors, strict=True):
        if report:
            screen.complain(report, about=o.stream)
    screen.rows(
        "streams", rows, _STATE[:1] + _STATE[2:] if offline else _STATE, none="no stream has a position yet"
    )
    return verdict(errors)


def _look(session: Session, pipeline: str, addresses: Addresses) -> tuple[Order, list[Outlook]]:
    """The pipeline with its ends, and where its streams stand in the target."""
    from headrace.control.pipelines import job
    from headrace.engine.plan import plan

    order = session.order(pipeline, addresses.source, addresses.target)
    kept = bool(session.project and pipeline in session.project.pipelines)
    try:
        outlooks = plan(job(order.pipeline, order.source, order.target))
    except AuthError as error:
        raise error if kept else _forgotten(error) from None
    if not kept:
        outlooks = [
            replace(o, error=_forgotten(o.error)) if isinstance(o.error, AuthError) else o for o in outlooks
        ]
    return order, outlooks


def _forgotten(error: AuthError) -> AuthError:
    return AuthError(
        error.code,
        error.message,
        field=error.field,
        remedy="A run without a file leaves no password behind: give the addresses that --from and --to had"
        " with --source and --target.",
    )


def _remembered(row: Mapping[str, Any]) -> str:
    if row["remembered"] is None:
        return "–"
    position = row["remembered"]["position"] or None
    return "the same" if position == row["position"] else position_text(position)


def position_text(position: Any) -> str:
    """A position in a table; the JSON output has it whole."""
    text = json.dumps(position, ensure_ascii=False, default=str) if position else "the start"
    return text if len(text) <= _LONG else f"{text[: _LONG - 1]}…"


_STATE = (
    Column("stream", "stream"),
    Column("in the target", lambda row: position_text(row["position"])),
    Column("remembered", _remembered),
    Column("saved", lambda row: ((row["remembered"] or {}).get("saved_at") or "–")[:19].replace("T", " ")),
)


def rewind(
    screen: Screen,
    pipeline: Pipeline,
    stream: Annotated[str, Argument(help="The stream to put back.")],
    to: Annotated[
        str,
        Option(
            "--to", help="`start`, or a position as `headrace state --json` shows it.", metavar="JSON|start"
        ),
    ],
    addresses: Addresses,
    yes: Annotated[bool, Option("--yes", "-y", help="Do not ask.")] = False,
) -> int:
    """Put a stream's position back, so that the next run reads again from there.

    \b
    headrace rewind nightly public.orders --to start
    headrace rewind nightly public.orders --to '{"cursor": "2026-01-01"}' --yes
    """
    from headrace.cli.session import Session, pick
    from headrace.control.pipelines import job
    from headrace.model.pipeline import WriteMode
    from headrace.model.stream import ReadMode

    position = _position(to)
    if not yes and not screen.asks:
        raise UsageError(
            "cli.needs_yes", "a rewind asks before it acts, and nobody can answer here", field="--yes",
            remedy="Add --yes to go on without being asked.",
        )  # fmt: skip
    with Session(screen) as session:
        order, found = _look(session, pipeline, addresses)
        ready = job(order.pipeline, order.source, order.target)
        outlooks = {o.stream: o for o in found}
        outlook = outlooks[pick(outlooks, stream, "stream")]
        if outlook.error:
            raise outlook.error
        again = "everything" if not position else f"what comes after {position_text(position)}"
        rows = f", about {outlook.rows:,} rows in all" if outlook.rows else ""
        now = position_text(outlook.position)
        screen.say(f"{stream} stands at {now}; the next run will read {again}{rows}")
        if outlook.read is ReadMode.FULL:
            screen.warn("this stream is read in full each time: its position decides nothing")
        if outlook.write is WriteMode.APPEND:
            screen.warn(f"mode append: rows that are read again will be in {outlook.target} a second time")
        if not yes and not typer.confirm("Go on?", err=True):
            screen.say("nothing was changed")
            return 1
        session.platform.pipelines.remember(OPERATOR, order.pipeline, order.source, order.target)
        done = session.platform.positions.rewind(OPERATOR, ready, stream, position)
    shown = {"stream": done.stream, "before": done.before or None, "after": done.after or None}
    screen.rows("streams", [shown], _REWOUND)
    return 0


def _position(text: str) -> dict[str, Any]:
    if text == "start":
        return {}
    try:
        position = json.loads(text)
    except ValueError:
        position = None
    if not isinstance(position, dict):
        raise UsageError(
            "cli.usage", f"{text!r} is not a position", field="--to",
            remedy="Write start, or a JSON object as `headrace state --json` shows it.",
        )  # fmt: skip
    return position


_REWOUND = (
    Column("stream", "stream"),
    Column("before", lambda row: position_text(row["before"])),
    Column("now", lambda row: position_text(row["after"])),
)


def rejects(
    screen: Screen,
    pipeline: Pipeline,
    stream: Annotated[str | None, Argument(help="Only of this stream.")] = None,
    limit: Annotated[int, Option("--limit", "-n", min=1, max=100_000, help="How many rows.")] = 100,
) -> None:
    """Show the rows that could not be written, each with its reason and where it came from.

    \b
    headrace rejects nightly
    headrace rejects nightly public.orders --output ndjson > rejects.ndjson
    """
    from headrace.cli.session import Session

    rows: list[dict[str, Any]] = []
    with Session(screen) as session:
        if session.remembers:
            id = session.remembered(pipeline).id
            rows = [
                {"at": letter.at.isoformat(), "run": letter.run, **letter.reject.to_json()}
                for letter in session.platform.positions.rejects(OPERATOR, id, stream, limit)
            ]
    screen.rows("rejects", rows, _REJECTS, none="no row was rejected")


_REJECTS = (
    Column("at", lambda row: row["at"][:19].replace("T", " ")),
    Column("stream", "stream"),
    Column("where", lambda row: ", ".join(f"{k}={v}" for k, v in row["where"].items())),
    Column("code", "code", style="red"),
    Column("reason", "reason"),
    Column("row", lambda row: json.dumps(row["row"], ensure_ascii=False, default=str)),
)
