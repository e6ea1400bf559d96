"""What a process of ours costs: its start (`startup`), and its memory as the table grows (`memory`)."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import environments, sides, tree
from benchmarks.report import about
from benchmarks.scene import SETTINGS, server_of, workplace
from benchmarks.trips import TABLE
from servers.postgres import PostgresServer

FEW = 10
STARTS, LOADS = 9, 3
SIZES = (1_000_000, 3_000_000, 10_000_000)
TARGETS = ("parquet", "iceberg")
LIBRARIES = {
    "Arrow with numpy": "pyarrow",
    "Arrow's functions": "pyarrow.compute",
    "psycopg": "psycopg",
    "SQLAlchemy": "sqlalchemy",
    "pydantic": "pydantic.types",
    "typer": "typer",
    "pyiceberg's SQL catalogue": "pyiceberg.catalog.sql",
}


def startup(rows: int | None = None) -> dict[str, Any]:
    """Whole processes in turn: our command with next to no work, and Python that only imports a library.

    With any `rows`, once each: a quick try.
    """
    ours = environments.headrace()
    with PostgresServer(settings=SETTINGS) as server, server.database("bench") as url:
        with server.connect("bench") as connection:
            connection.execute(TABLE.format(rows=FEW).encode())
        commands: dict[str, Sequence[str | Path]] = {
            "Python alone": [ours.python, "-c", "pass"],
            **{name: [ours.python, "-c", f"import {module}"] for name, module in LIBRARIES.items()},
            "headrace --version": [ours.program("headrace"), "--version"],
            **{f"headrace run, {FEW} rows to {target}": _load(url, target) for target in TARGETS},
        }
        found = server_of(url)
        for command in commands.values():
            _spent(command)  # compiles what is imported
        runs = _in_turn(commands, 1 if rows else STARTS)
    return {
        **about(),
        "quick": rows is not None,
        "server": found,
        "versions": environments.used(),
        "runs": runs,
    }


def memory(rows: int | None = None) -> dict[str, Any]:
    """Loads of tables of several sizes, in turn. With `rows`, of one small one: a quick try."""
    sizes = (rows,) if rows else SIZES
    runs: dict[str, list[dict[str, Any]]] = {}
    with PostgresServer(settings=SETTINGS) as server:
        for size in sizes:
            with server.database(f"bench_{size}") as url:
                with server.connect(f"bench_{size}") as connection:
                    connection.execute(TABLE.format(rows=size).encode())
                    connection.execute("VACUUM (FREEZE, ANALYZE) trips")
                found = server_of(url)
                loads = {f"{size:,} rows to {target}": _load(url, target) for target in TARGETS}
                runs |= _in_turn(loads, LOADS)
    return {
        **about(),
        "quick": rows is not None,
        "server": found,
        "versions": environments.used(),
        "runs": runs,
    }


def _load(url: str, target: str) -> Sequence[str | Path]:
    return sides.headrace_run(url, f"{target}:./out", "public.trips")


def _in_turn(commands: Mapping[str, Sequence[str | Path]], times: int) -> dict[str, list[dict[str, Any]]]:
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    for _ in range(times):
        for name, command in commands.items():
            spent = _spent(command)
            runs[name].append(
                {
                    "wall": round(spent.wall, 3),
                    "cpu": round(spent.cpu, 3),
                    "peak_mb": round(spent.peak / 1e6),
                }
            )
            print(f"{name}: {runs[name][-1]}", file=sys.stderr, flush=True)
    return runs


def _spent(command: Sequence[str | Path]) -> tree.Spent:
    with workplace() as folder:
        spent = tree.run(command, folder=folder, env={})
    if spent.code:
        raise RuntimeError(f"ended with code {spent.code}: {spent.out.strip()[-300:]}")
    return spent


def table_of_starts(report: Mapping[str, Any]) -> str:
    lines = ["| | CPU s | wall s | MB |", "|---|---|---|---|"]
    for name, runs in report["runs"].items():
        cpu, wall, peak = (
            statistics.median(run[what] for run in runs) for what in ("cpu", "wall", "peak_mb")
        )
        lines.append(f"| {name} | {cpu:.2f} | {wall:.2f} | {peak:.0f} |")
    return "\n".join(lines)


def table_of_memory(report: Mapping[str, Any]) -> str:
    """By size and target, the highest peak."""
    peaks: dict[str, dict[str, int]] = {}
    for name, runs in report["runs"].items():
        size, target = name.split(" rows to ")
        peaks.setdefault(target, {})[size] = max(run["peak_mb"] for run in runs)
    sizes = list(next(iter(peaks.values())))
    rows = [
        f"| to {target} | {' | '.join(str(of[size]) for size in sizes)} |" for target, of in peaks.items()
    ]
    return "\n".join([f"| rows | {' | '.join(sizes)} |", "|---" * (len(sizes) + 1) + "|", *rows])
