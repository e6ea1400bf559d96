"""How often something may be tried: guesses at passwords, registrations, letters to an address."""

from __future__ import annotations

import math
import time

from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from headrace.errors import TooMany

LOGINS_OF_ONE = parse("10 per 5 minutes")
LOGINS_OF_ONE_ANYWHERE = parse("200 per hour")
LOGINS_FROM_ONE = parse("100 per 5 minutes")
LETTERS_TO_ONE = parse("5 per hour")
LETTERS_FROM_ONE = parse("30 per hour")
REGISTRATIONS_FROM_ONE = parse("30 per hour")


class Limits:
    """Counts in this process: behind several servers, each grants as much."""

    def __init__(self) -> None:
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    def count(self, limit: RateLimitItem, *who: str | None) -> None:
        """One more by `who`; nothing is counted for one who is not known. Raises TooMany."""
        if None in who:
            return
        key = [part or "" for part in who]
        if self._limiter.hit(limit, *key):
            return
        error = TooMany("limit.too_many", "this was tried too often", remedy="Wait a little, then try again.")
        free = self._limiter.get_window_stats(limit, *key).reset_time
        error.retry_after = max(1, math.ceil(free - time.time()))
        raise error
