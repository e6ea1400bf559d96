"""A process that does the imports that wait: `python -m headrace.control.import_child`.

The first line on stdin says how to open the store: secrets come this way, never by arguments or the
environment. The end of stdin says that the worker ends or is gone: what is under way is left to others.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import TextIO

from headrace.connector import egress
from headrace.control.platform import Platform
from headrace.engine.stop import Stop
from headrace.errors import TransientError

_LAST = 10.0  # seconds to let go of the lease, once told to end


def main() -> int:
    hello = json.loads(sys.stdin.readline())
    egress.restrict(egress.Policy.from_json(hello["egress"]))
    stop = Stop()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the worker's to hear
    signal.signal(signal.SIGTERM, lambda *_: stop.abort())
    threading.Thread(target=_listen, args=(sys.stdin, stop), name="worker", daemon=True).start()
    sys.stdout = sys.stderr  # whatever a driver prints
    try:
        with closing(Platform.open(Path(hello["folder"]), hello["environ"])) as platform:
            while not stop.draining and platform.importer.step(stop):
                pass
    except TransientError:
        pass  # the store is away: the worker looks again
    return 0


def _listen(lines: TextIO, stop: Stop) -> None:
    lines.read()
    stop.abort()
    threading.Event().wait(_LAST)
    os._exit(0)


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)
