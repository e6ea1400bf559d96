"""What every part says of its runs: where, when, each run, and the medians to quote."""

from __future__ import annotations

import os
import platform
import re
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Runs = Mapping[str, Sequence[Mapping[str, Any]]]
"""By way, the wall and CPU seconds of each run, and what else was measured of it."""


def report(rows: int, runs: Runs, **more: Any) -> dict[str, Any]:
    """The runs over `rows` rows, and each way's median rate and CPU seconds; `more` goes in as it is."""
    return {
        **about(),
        "rows": rows,
        "runs": runs,
        "median_rows_per_second": {
            name: round(rows / statistics.median(run["wall"] for run in taken))
            for name, taken in runs.items()
        },
        "median_cpu_seconds_per_million_rows": {
            name: round(statistics.median(run["cpu"] for run in taken) * 1e6 / rows, 3)
            for name, taken in runs.items()
            if all("cpu" in run for run in taken)
        },
        **more,
    }


def about() -> dict[str, Any]:
    """When and where."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "machine": machine(),
        "python": platform.python_version(),
    }


def machine() -> dict[str, Any]:
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "cpu": cpu[1] if cpu else platform.processor(),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9),
        "kernel": platform.release(),
    }
