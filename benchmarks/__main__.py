"""`python -m benchmarks [PART …]`: run the named parts, or all, and print what they measured as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks import executors, postgres_target, reading, upsert

PARTS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "executors": executors.measure,
    "reading": reading.measure,
    "postgres_target": postgres_target.measure,
    "upsert": upsert.measure,
}


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        print(f"no part {', '.join(unknown)}; there are: {', '.join(PARTS)}", file=sys.stderr)
        return 64
    print(json.dumps({name: PARTS[name]() for name in names or PARTS}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
