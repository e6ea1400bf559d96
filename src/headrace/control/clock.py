"""Turns schedules into queued runs; any number of clocks may tick over one store."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import datetime

from headrace.control.schedule import following
from headrace.control.worker import Log
from headrace.errors import ConfigError, HeadraceError
from headrace.model.run import Run
from headrace.store import Store
from headrace.store.schedules import Due

bugs = logging.getLogger("headrace.bugs")

TICK = 1.0
"""Seconds between two looks."""


class Clock:
    """`run` in a thread of its own, `stop` from any other."""

    def __init__(self, store: Store, log: Log):
        self._store, self._log = store, log
        self._stopped = threading.Event()
        self._away = False

    def run(self) -> None:
        """Tick until stopped."""
        while not self._stopped.wait(TICK):
            self.look()

    def stop(self) -> None:
        self._stopped.set()

    def look(self) -> None:
        """One tick; a store that is away is asked again at the next."""
        try:
            self.tick()
            self._away = False
        except HeadraceError as error:
            if not self._away:
                self._log("warning", "no schedule can be read", code=error.code, error=error.message)
            self._away = True
        except Exception:  # or no schedule would ever be looked at again
            bugs.exception("the clock met a bug")

    def tick(self) -> int:
        """Queue what is due; gives how many runs that were.

        Of several moments that nobody was there for, one makes a run: the last ones are not repeated.
        """
        fired = 0
        for due in self._store.schedules.due():
            done = self._store.schedules.fire(due, self._following(due))
            if isinstance(done, Run):
                fired += 1
                self._log("info", "a schedule asks for a run", pipeline=due.pipeline, run=done.id)
            elif done:
                self._log("warning", "a scheduled run is skipped", pipeline=due.pipeline, unfinished=done)
        return fired

    def _following(self, due: Due) -> Callable[[datetime], datetime | None]:
        def after(moment: datetime) -> datetime | None:
            try:
                return following(due.schedule, moment)
            except ConfigError as error:
                self._log("error", "a schedule is none", pipeline=due.pipeline, error=error.message)
                return None

        return after
