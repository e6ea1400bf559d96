"""`python -m benchmarks [PART …]`: run the named parts, or all, and print what they measured as JSON.

The parts named p… are contests beside other tools. Their reports go into `benchmarks/results/` as well and
from there into docs/benchmarks.md, and the marks are printed last; those of `startup` and `memory` go into
docs/performance.md. With fewer rows than a result needs (`--rows`) it is a try, which goes into
`.bench/tries/` and ranks nothing. `python -m benchmarks render` writes the tables of both pages anew.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks import (
    api,
    copying,
    csv_import,
    executors,
    full_load,
    marks,
    process,
    reading,
    results,
    scene,
    upsert,
    upserts,
)

STAGES: Mapping[str, Callable[[], dict[str, Any]]] = {
    "api": api.measure,
    "executors": executors.measure,
    "reading": reading.measure,
    "upsert": upsert.measure,
}
CONTESTS: Mapping[str, Callable[..., dict[str, Any]]] = {
    "p1": full_load.to_parquet,
    "p1t": full_load.to_parquet_over_tls,
    "p2": full_load.to_iceberg,
    "p3": copying.measure,
    "p5": upserts.measure,
    "p10": csv_import.measure,
}
OURS: Mapping[str, Callable[..., dict[str, Any]]] = {
    "memory": process.memory,
    "startup": process.startup,
}
PARTS = {**STAGES, **OURS, **CONTESTS}


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all by default; or: render")
    parser.add_argument(
        "--rows", type=int, help=f"rows of the table; a contest needs {scene.ROWS:,} to count"
    )
    asked = parser.parse_args(words)
    if asked.parts == ["render"]:
        results.render()
        return 0
    unknown = [name for name in asked.parts if name not in PARTS]
    if unknown:
        print(f"no part {', '.join(unknown)}; there are: {', '.join(PARTS)}", file=sys.stderr)
        return 64
    reports = {}
    for name in asked.parts or PARTS:
        rows = {"rows": asked.rows} if asked.rows and name not in STAGES else {}
        reports[name] = found = PARTS[name](**rows)
        if "quick" in found:
            print(f"{name}: {results.save(name, found)}", file=sys.stderr, flush=True)
            results.render()
    print(json.dumps(reports, indent=1))
    for name, found in reports.items():
        if "skipped" in found:
            print(f"{name}: skipped, {found['skipped']}", file=sys.stderr)
        for mark in found.get("marks", ()):
            trial = "" if results.counts(found) else "  (a try: no result)"
            print(marks.line(mark) + trial, file=sys.stderr)
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers and folders are cleared away
    raise SystemExit(main(sys.argv[1:]))
