"""Which error is tried again, when, and how often."""

from __future__ import annotations

import random
from datetime import timedelta

from headrace.errors import HeadraceError, TransientError
from headrace.model.pipeline import Tuning

LONGEST = timedelta(minutes=5)


def again(error: BaseException, attempt: int, tuning: Tuning) -> bool:
    """Is another attempt worth it after `attempt` (from 1) ended with `error`?"""
    return isinstance(error, TransientError) and attempt <= tuning.max_retries


def delay(tuning: Tuning, attempt: int) -> timedelta:
    """How long to wait after `attempt` failed: doubling, with jitter so that many do not return at once."""
    wait = tuning.retry_backoff * float(2 ** min(attempt - 1, 20))
    return min(wait, LONGEST) * random.uniform(0.5, 1.0)


def report(error: BaseException) -> HeadraceError:
    """The error as a user may see it; one that is not ours is a bug, and says so without details."""
    if isinstance(error, HeadraceError):
        return error
    return HeadraceError(
        "internal",
        f"an error inside Headrace: {type(error).__name__}",
        remedy="Run again with --debug for the trace, and report it.",
    )
