"""A worker process that stages slices for a run: `python -m headrace.control.stage`.

The first line on stdin names source and target with their settings; every further line is a piece.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

from headrace import catalog
from headrace.engine.executors import Opened, serve


def main() -> None:
    hello = json.loads(sys.stdin.readline())
    source = catalog.source(hello["source"]["connector"], hello["source"]["settings"])
    target = catalog.target(hello["target"]["connector"], hello["target"]["settings"])
    lock = threading.Lock()
    out = sys.stdout
    sys.stdout = sys.stderr  # whatever a driver prints must not get between the answers

    def answer(data: dict[str, Any]) -> None:
        with lock:
            out.write(json.dumps(data) + "\n")
            out.flush()

    try:
        serve(sys.stdin, answer, Opened(source, target, catalog.transform))
    finally:
        source.close()
        target.close()


if __name__ == "__main__":
    main()
