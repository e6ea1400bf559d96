"""How a run is told to end early: first gently, then at once."""

from __future__ import annotations

import threading

_LOOK = 0.2  # seconds between two looks at the parent


class Stop:
    """Shared by the thread that runs and the one that wants it to end.

    `drain`: finish what is in hand, checkpoint, end. `abort`: end now; unfinished work is read again.
    """

    def __init__(self, parent: Stop | None = None) -> None:
        """With a `parent`, its signals count here too, but not the other way round."""
        self._parent = parent
        self._draining = threading.Event()
        self._aborted = threading.Event()

    def drain(self) -> None:
        self._draining.set()

    def abort(self) -> None:
        self._draining.set()
        self._aborted.set()

    def pause(self, seconds: float) -> None:
        """Wait, no longer than until the run is told to end."""
        while seconds > 0 and not self.draining:
            self._draining.wait(min(seconds, _LOOK))
            seconds -= _LOOK

    @property
    def draining(self) -> bool:
        return self._draining.is_set() or (self._parent is not None and self._parent.draining)

    @property
    def aborted(self) -> bool:
        return self._aborted.is_set() or (self._parent is not None and self._parent.aborted)
