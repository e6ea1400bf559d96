"""Upserts into Iceberg tables of several sizes (`p5`): row deltas beside `upsert` of pyiceberg alone.

Each side and size is one process, which makes the table and then upserts its batches; a run is one batch.
pyiceberg, which reads and writes the whole table for each batch, gets the smallest size only.
What the change log of a database adds to it is measured elsewhere.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import environments, marks, tree
from benchmarks.contest import Command, median
from benchmarks.report import report
from benchmarks.scene import workplace
from benchmarks.upsert import BATCHES, CHANGES, SIZES

SMALL = (1_000_000, 2_000_000)
OURS, PYICEBERG = "Headrace", "pyiceberg"
TIMEOUT = 400.0
HOW = {
    OURS: "batches of 100,000: half updates, a quarter inserts, a quarter deletes; the first left out",
    PYICEBERG: "batches of 100,000: two thirds updates, one third inserts, as its `upsert` knows no deletes",
}


def measure(rows: int | None = None) -> dict[str, Any]:
    """With any `rows`, over smaller tables: a quick try."""
    sizes = SMALL if rows else SIZES
    runs: dict[str, list[dict[str, Any]]] = {}
    sides: dict[str, dict[str, Any]] = {}
    for size in sizes:
        for name, kind, command in ((OURS, "ours", _ours), (PYICEBERG, "rival", _pyiceberg)):
            if name == PYICEBERG and size > sizes[0]:
                continue
            label = named(name, size)
            sides[label] = {"kind": kind, "settings": HOW[name], "not_level": None}
            try:
                runs[label] = _batches(command, size)
            except (RuntimeError, TimeoutError) as error:
                sides[label]["failed"] = str(error)
            print(f"{label}: {sides[label].get('failed') or runs[label]}", file=sys.stderr, flush=True)
    return report(
        CHANGES,
        runs,
        title="Upserts into Iceberg",
        quick=rows is not None,
        sides=sides,
        versions=environments.used(),
        marks=[mark.record() for mark in _p5(runs, sizes)],
    )


def named(side: str, size: int) -> str:
    return f"{side}, table of {size:,} rows"


def _p5(runs: marks.Runs, sizes: Sequence[int]) -> Sequence[marks.Mark]:
    small, large = (median(runs, named(OURS, size)) for size in (sizes[0], sizes[-1]))
    growth = None if small is None or large is None else large / small
    mark = f"P5 a batch in {sizes[-1]:,} rows, × its time in {sizes[0]:,}"
    return [marks.Mark(mark, sizes[-1] / sizes[0], growth, most=True)]


def _batches(command: Callable[[int, Path], Command], size: int) -> list[dict[str, Any]]:
    with workplace() as folder:
        env = {"HEADRACE_BENCH_FOLDER": str(folder), "PYTHONPATH": str(environments.ROOT)}
        spent = tree.run(command(size, folder), folder=folder, env=env, timeout=TIMEOUT)
    if spent.code:
        raise RuntimeError(f"ended with code {spent.code}: {spent.out.strip()[-300:]}")
    found = json.loads(spent.out.strip().splitlines()[-1])
    wrong = f"{found['missing']} rows are missing" if found.get("missing") else None
    seconds = found["seconds"][1:] or found["seconds"] if command is _ours else found["seconds"]
    return [
        {"wall": each, "inner": each, "peak_mb": round(spent.peak / 1e6), "wrong": wrong} for each in seconds
    ]


def _ours(size: int, folder: Path) -> Command:
    return [sys.executable, "-m", "benchmarks.upsert", str(size), str(BATCHES)]


def _pyiceberg(size: int, folder: Path) -> Command:
    python, script = environments.rival("pyiceberg").python, environments.SCRIPTS / "pyiceberg_upsert.py"
    return [python, script, folder / "lake", str(size), str(CHANGES), "3"]
