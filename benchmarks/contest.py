"""Several sides do the same work in turn; each run is measured whole and its copy is compared."""

from __future__ import annotations

import shutil
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks import check, tree

RUNS = 3
LONG = 15.0  # seconds: a side whose first run takes longer runs only once

Command = Sequence[str | Path]


@dataclass(frozen=True, kw_only=True)
class Side:
    """One way to do the work.

    `command` gets an empty folder to write to. `inner` finds in what the command printed the seconds it says
    itself that the work took. `sums` sums up the copy that a run left, `files` are the Parquet files of it;
    limits leave no copy. `before` prepares a run and is not measured.
    """

    name: str
    kind: Literal["ours", "rival", "limit"]
    command: Callable[[Path], Command]
    inner: Callable[[str], float]
    settings: str
    env: Mapping[str, str] = field(default_factory=dict)
    sums: Callable[[Path], check.Sums] | None = None
    files: Callable[[Path], Sequence[Path]] | None = None
    before: Callable[[Path], object] | None = None
    not_level: str | None = None


@dataclass(frozen=True)
class Outcome:
    """`runs` by side; what else there is to say of each side."""

    runs: dict[str, list[dict[str, Any]]]
    sides: dict[str, dict[str, Any]]


def hold(sides: Sequence[Side], expected: check.Sums, folder: Path, *, runs: int = RUNS) -> Outcome:
    """Every side in turn, `runs` times over, so that a slower hour of the machine is shared by all."""
    taken: dict[str, list[dict[str, Any]]] = {side.name: [] for side in sides}
    told: dict[str, dict[str, Any]] = {
        side.name: {"kind": side.kind, "settings": side.settings, "not_level": side.not_level}
        for side in sides
    }
    for turn in range(runs):
        for side in sides:
            before = taken[side.name]
            if "failed" in told[side.name] or (before and before[0]["wall"] > LONG):
                continue
            place = folder / f"{side.name.replace(' ', '-').replace('/', '-')}-{turn}"
            place.mkdir(parents=True)
            try:
                run, wrote = _one(side, expected, place)
            except Exception as error:  # of one side, which must not end the others
                told[side.name]["failed"] = str(error)
                _say(f"{side.name}: {error}")
                continue
            finally:
                shutil.rmtree(place, ignore_errors=True)
            before.append(run)
            told[side.name].update(wrote)
            _say(f"{side.name}: {run['wall']:.2f} s, {run['peak_mb']} MB" + (
                f", WRONG: {run['wrong']}" if run["wrong"] else ""))  # fmt: skip
    return Outcome({name: found for name, found in taken.items() if found}, told)


def _one(side: Side, expected: check.Sums, place: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    if side.before:
        side.before(place)
    spent = tree.run(side.command(place), folder=place, env=side.env)
    if spent.code:
        raise RuntimeError(f"ended with code {spent.code}: {spent.out.strip()[-400:]}")
    run = {
        "wall": round(spent.wall, 3),
        "inner": round(side.inner(spent.out), 3),
        "cpu": round(spent.cpu, 3),
        "peak_mb": round(spent.peak / 1e6),
        "wrong": check.difference(expected, side.sums(place)) if side.sums else None,
    }
    wrote = {"wrote": asdict(check.written(side.files(place)))} if side.files else {}
    return run, wrote


def median(outcome: Mapping[str, Sequence[Mapping[str, Any]]], name: str, what: str = "wall") -> float | None:
    """Of a side's runs, or None for a side that did not run or whose copy was wrong even once."""
    runs = outcome.get(name, ())
    if not runs or any(run["wrong"] for run in runs):
        return None
    return float(statistics.median(run[what] for run in runs))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
