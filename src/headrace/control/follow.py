"""Follow the log of a run until it ends, for a command line or a socket."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from headrace.control.access import Actor
from headrace.control.runs import Runs
from headrace.model.run import LogLine

LOOK = 0.5
"""Seconds between two looks for new lines."""


def follow(
    runs: Runs,
    id: str,
    actor: Callable[[], Actor],
    *,
    after: int = 0,
    pause: Callable[[], object] = lambda: time.sleep(LOOK),
) -> Iterator[LogLine]:
    """The lines after line `after`, as they come, and no more once the run has ended.

    `actor` is asked at each look, as rights may be lost meanwhile; `pause` waits between two looks, and
    may raise to end it early. Raises what `Runs.get` raises.
    """
    while True:
        who = actor()
        ended = runs.get(who, id).status.ended  # looked at first, so that no last line is missed
        while lines := runs.logs(who, id, after):
            yield from lines
            after = lines[-1].line
        if ended:
            return
        pause()
