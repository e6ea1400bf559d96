"""`headrace plan`: what a run would do now; changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from headrace.cli.positions import position_text
from headrace.cli.request import Choice, Ends, Knobs
from headrace.cli.screen import Column, Screen, error_json
from headrace.model.run import ErrorReport

if TYPE_CHECKING:
    from headrace.engine.plan import Outlook

CHANGES = 2


def plan(
    screen: Screen,
    ends: Ends,
    choice: Choice,
    knobs: Knobs,
    pipelines: Annotated[
        list[str] | None, Argument(help="Pipelines of headrace.yaml; all by default.")
    ] = None,
    detailed_exitcode: Annotated[
        bool, Option("--detailed-exitcode", help="Exit 2 when a table would be made or changed.")
    ] = False,
) -> int:
    """Show what `run` would do with the same words: tables, columns, positions. Changes nothing.

    \b
    headrace plan nightly --detailed-exitcode
    headrace plan --from shop --to lake --stream 'public.*'
    """
    from headrace.cli.request import orders
    from headrace.cli.session import Session
    from headrace.control.outcome import verdict
    from headrace.control.pipelines import job
    from headrace.engine.plan import plan as look_ahead

    rows: list[dict[str, Any]] = []
    errors: list[ErrorReport | None] = []
    with Session(screen) as session:
        for order in orders(session, pipelines or [], ends, choice, knobs):
            for outlook in look_ahead(job(order.pipeline, order.source, order.target)):
                rows.append({"pipeline": order.pipeline.name, **_row(outlook)})
                report = ErrorReport.of(outlook.error) if outlook.error else None
                errors.append(report)
                if report:
                    screen.complain(report, about=outlook.stream)
    columns: Sequence[Column] = _COLUMNS
    if screen.narrow and len({row["pipeline"] for row in rows}) == 1:
        screen.say(rows[0]["pipeline"])
        columns = _COLUMNS[1:]
    screen.rows("streams", rows, columns, none="nothing to do")
    if code := verdict(errors):
        return code
    return CHANGES if detailed_exitcode and any(row["action"] != "none" for row in rows) else 0


def _row(outlook: Outlook) -> dict[str, Any]:
    difference = outlook.difference
    action = "fails" if outlook.error else "create" if outlook.creates else "alter" if difference else "none"
    return {
        "stream": outlook.stream,
        "read": outlook.read and outlook.read.value,
        "mode": outlook.write and outlook.write.value,
        "target": outlook.target,
        "action": action,
        "columns": {"added": difference.added, "changed": difference.changed, "gone": difference.gone},
        "position": outlook.position or None,
        "rows": outlook.rows,
        "error": error_json(ErrorReport.of(outlook.error)) if outlook.error else None,
    }


_ACTIONS = {"create": "green", "alter": "yellow", "fails": "bold red", "none": "dim"}


def _columns(row: Mapping[str, Any]) -> str:
    columns = row["columns"]
    signs = (("+", columns["added"]), ("~", columns["changed"]), ("−", columns["gone"]))
    return ", ".join(f"{sign}{name}" for sign, names in signs for name in names)


_COLUMNS = (
    Column("pipeline", "pipeline"),
    Column("stream", "stream"),
    Column("read", "read"),
    Column("mode", "mode"),
    Column("table", "target"),
    Column("action", "action", style=lambda row: _ACTIONS[row["action"]]),
    Column("columns", _columns, optional=True),
    Column("rows", lambda row: None if row["rows"] is None else f"~{row['rows']:,}", right=True),
    Column("from", lambda row: position_text(row["position"])),
)
