"""How runs and checks end, as one exit code."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.model.run import ErrorReport, Run, RunStatus

PARTIAL = 7


def exit_code(run: Run) -> int:
    """How a command ends that ran this run."""
    if run.status is RunStatus.SUCCEEDED:
        return 0
    if run.error:
        return run.error.exit_code
    return verdict([s.error for s in run.streams]) or 1


def verdict(errors: Sequence[ErrorReport | None]) -> int:
    """The exit code of several things: that of their class of error if all failed alike, else partial."""
    codes = {error.exit_code if error else 0 for error in errors}
    return codes.pop() if len(codes) == 1 else PARTIAL if codes else 0
