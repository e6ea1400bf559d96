"""A worker process that stages slices for a run: `python -m headrace.control.stage`.

The first line on stdin holds source, target and transforms, all with their settings; each further line
is a piece.
"""

from __future__ import annotations

import json
import sys
import threading
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from headrace import catalog
from headrace.connector import egress
from headrace.engine.executors import Opened, error_to_json, serve
from headrace.errors import HeadraceError
from headrace.model.pipeline import TransformStep


def main() -> None:
    hello = json.loads(sys.stdin.readline())
    egress.restrict(egress.Policy.from_json(hello["egress"]))
    catalog.look_in(Path(hello["connectors"]) if hello["connectors"] else None)
    lock = threading.Lock()
    out = sys.stdout
    sys.stdout = sys.stderr  # whatever a driver prints must not get between the answers

    def answer(data: dict[str, Any]) -> None:
        with lock:
            out.write(json.dumps(data) + "\n")
            out.flush()

    with ExitStack() as opened:
        try:
            reads, writes = hello["source"], hello["target"]
            source = opened.enter_context(closing(catalog.source(reads["connector"], reads["settings"])))
            target = opened.enter_context(closing(catalog.target(writes["connector"], writes["settings"])))
        except HeadraceError as error:
            for _ in sys.stdin:
                answer(error_to_json(error))
            return
        steps = tuple(TransformStep(**step) for step in hello["transforms"])
        serve(sys.stdin, answer, Opened(source, target, steps, catalog.transform))


if __name__ == "__main__":
    main()
