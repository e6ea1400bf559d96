"""Named places where a test may kill, fail or hold a run. Off unless armed; costs one lookup.

Armed by `HEADRACE_FAILPOINT=point=action[@n]`: the n-th time (from 1) that `point` is passed,
`action` happens: `kill` (SIGKILL to this process), `raise` (a TransientError), `lose` (an
OutcomeUnknown: the step was done, its reply got lost) or `hold:path` (a file is made at `path`, and
the point is not passed until somebody removes it).
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from headrace.errors import ConfigError, OutcomeUnknown, TransientError

POINTS = ("after_stage", "before_publish", "after_publish", "after_save", "before_ack")
BESIDE = "before_maintenance"
"""Passed beside a run, or after it: not one of the steps that every run takes."""

_armed: dict[str, tuple[str, int]] = {}
_passed: dict[str, int] = {}


def arm(spec: str) -> None:
    """Arm the points of `spec` (comma-separated) and disarm all others; empty disarms everything."""
    _armed.clear()
    _passed.clear()
    for part in filter(None, spec.split(",")):
        point, _, rest = part.partition("=")
        action, _, nth = rest.partition("@")
        if point not in (*POINTS, BESIDE):
            raise ConfigError(
                "engine.failpoint", f"no failpoint {point!r}", remedy=f"Known are: {', '.join(POINTS)}."
            )
        _armed[point] = (action, int(nth or 1))


def hit(point: str) -> None:
    """Called by the engine as it passes `point`."""
    if point not in _armed:
        return
    action, nth = _armed[point]
    _passed[point] = _passed.get(point, 0) + 1
    if _passed[point] != nth:
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "raise":
        raise TransientError("engine.failpoint_raised", f"failpoint {point} was armed to raise")
    if action == "lose":
        raise OutcomeUnknown("engine.failpoint_lost", f"failpoint {point} was armed to lose the reply")
    if action.startswith("hold:"):
        held = Path(action.removeprefix("hold:"))
        held.touch()
        while held.exists():
            time.sleep(0.01)


arm(os.environ.get("HEADRACE_FAILPOINT", ""))
