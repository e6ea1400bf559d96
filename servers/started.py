"""A server that runs for the time of a `with` block."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class Started(ABC):
    """Runs inside `with`. What `_start` has begun is undone, the last first, also when it fails."""

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            self._start(undo)
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()

    @abstractmethod
    def _start(self, undo: contextlib.ExitStack) -> None:
        """Return once the server is ready; `undo` gets what ends it."""
