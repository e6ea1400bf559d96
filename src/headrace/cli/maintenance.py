"""`headrace maintain`: fewer and larger files, less history, nothing that lies about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from typer import Argument, Option

from headrace.cli.screen import Column, Screen, error_json, many, size
from headrace.model.run import ErrorReport


@dataclass(frozen=True, kw_only=True)
class Steps:
    """What to do: everything, but for what is left out."""

    compact: Annotated[bool, Option("--compact/--no-compact", help="Compact small and worn files.")] = True
    expire: Annotated[bool, Option("--expire/--no-expire", help="Expire old snapshots.")] = True
    orphans: Annotated[
        bool, Option("--orphans/--no-orphans", help="Remove files that nothing refers to.")
    ] = True
    dry_run: Annotated[bool, Option("--dry-run", help="Change nothing; show what would be done.")] = False


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """From where on something is done."""

    small_file_mb: Annotated[
        int | None, Option(min=1, max=4096, help="Smaller files are small; by default half of the target's.")
    ] = None
    min_files: Annotated[int, Option(min=2, max=10_000, help="So many small files are worth it.")] = 5
    deleted_share: Annotated[
        float, Option(min=0.01, max=1.0, help="A file with a larger share of deleted rows is made anew.")
    ] = 0.2
    expire_days: Annotated[float, Option(min=0.0, help="Snapshots older than so many days expire.")] = 7.0
    keep: Annotated[int, Option(min=1, help="The last so many snapshots stay, however old.")] = 10
    orphan_days: Annotated[float, Option(min=1.0, help="Orphans go when they are so many days old.")] = 3.0


def maintain(
    screen: Screen,
    connection: Annotated[str, Argument(help="A connection's name or an address.")],
    steps: Steps,
    bounds: Bounds,
    tables: Annotated[
        list[str] | None,
        Option(
            "--table", "-t", metavar="NAME", help="Only this one; by default all that Headrace has written."
        ),
    ] = None,
) -> int:
    """Compact files, expire snapshots and remove orphans; safe beside running pipelines.

    \b
    headrace maintain iceberg:./lake --dry-run
    headrace maintain parquet:./out --orphan-days 7
    headrace maintain lake --table public.orders --expire-days 30
    """
    from headrace.cli.session import Session
    from headrace.connector import Maintenance
    from headrace.control.maintenance import maintain as look_after
    from headrace.control.outcome import verdict

    wanted = Maintenance(
        tables=tuple(tables or ()),
        compact=steps.compact,
        expire=steps.expire,
        orphans=steps.orphans,
        small_bytes=bounds.small_file_mb << 20 if bounds.small_file_mb else None,
        min_files=bounds.min_files,
        deleted_share=bounds.deleted_share,
        expire_after=bounds.expire_days,
        keep_snapshots=bounds.keep,
        orphans_after=bounds.orphan_days,
        dry_run=steps.dry_run,
    )
    rows: list[dict[str, Any]] = []
    errors: list[ErrorReport | None] = []
    with Session(screen) as session:
        for done in look_after(session.endpoint(connection), wanted):
            report = ErrorReport.of(done.error) if done.error else None
            if report:
                screen.complain(report, about=done.table)
            errors.append(report)
            rows.append(
                {
                    "table": done.table,
                    "step": done.step,
                    "dry_run": steps.dry_run,
                    "counts": dict(done.counts),
                    "error": error_json(report) if report else None,
                }
            )
    screen.rows("maintenance", rows, _DONE, none="there is no table that Headrace has written")
    return verdict(errors)


def _said(row: Mapping[str, Any]) -> str:
    if row["error"]:
        return "failed"
    found = row["counts"]
    if row["step"] == "compact":
        if not found["files_in"] and not found["deletes_out"]:
            return "nothing to do"
        into = "" if row["dry_run"] else f" into {many(found['files_out'], 'file')}"
        files = f"{many(found['files_in'], 'file')} ({size(found['bytes_in'])}){into}"
        return f"{files}, {many(found['deletes_out'], 'delete file')} less"
    if row["step"] == "expire":
        return f"{many(found['snapshots_out'], 'snapshot')}, {many(found['files_removed'], 'file')}"
    return f"{many(found['files_removed'], 'file')} ({size(found['bytes_removed'])})"


_DONE = (
    Column("table", "table"),
    Column("step", "step"),
    Column("", lambda row: "would be" if row["dry_run"] else "done", style="dim"),
    Column("what", _said, style=lambda row: "red" if row["error"] else ""),
)
