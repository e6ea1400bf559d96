"""What every part says of its runs: where, when, each run, and the medians to quote."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

Runs = Mapping[str, Sequence[Mapping[str, float]]]
"""By way, the wall and CPU seconds of each run."""


def report(rows: int, runs: Runs) -> dict[str, Any]:
    """The runs over `rows` rows, and each way's median rate and median CPU seconds."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": rows,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "runs": runs,
        "median_rows_per_second": {
            name: round(rows / statistics.median(run["wall"] for run in taken))
            for name, taken in runs.items()
        },
        "median_cpu_seconds_per_million_rows": {
            name: round(statistics.median(run["cpu"] for run in taken) * 1e6 / rows, 3)
            for name, taken in runs.items()
        },
    }
