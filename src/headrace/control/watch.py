"""The engine's memory with somebody looking on: each count and log line is told as it happens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from headrace.connector import Position, Reject, Token
from headrace.engine.state import Saved, StagedSlice, State
from headrace.model.run import Counts, Run, StreamProgress


class Watcher(Protocol):
    """Who follows a run. Called from the engine's threads, and must not be slow."""

    def started(self, run: Run) -> None: ...

    def progress(self, progress: StreamProgress) -> None: ...

    def log(self, level: str, message: str, stream: str | None) -> None: ...


class Nobody:
    """Follows nothing: what the store remembers is enough."""

    def started(self, run: Run) -> None: ...

    def progress(self, progress: StreamProgress) -> None: ...

    def log(self, level: str, message: str, stream: str | None) -> None: ...


class Watched:
    """Fits `State`."""

    def __init__(self, state: State, watcher: Watcher):
        self._state = state
        self._watcher = watcher

    @property
    def run(self) -> str:
        return self._state.run

    @property
    def epoch(self) -> int:
        return self._state.epoch

    def raise_epoch(self, at_least: int) -> int:
        return self._state.raise_epoch(at_least)

    def load_staged(self, stream: str) -> list[StagedSlice]:
        return self._state.load_staged(stream)

    def save_staged(self, stream: str, done: StagedSlice) -> None:
        self._state.save_staged(stream, done)

    def drop_staged(self, stream: str) -> None:
        self._state.drop_staged(stream)

    def load(self, slice_key: str) -> Saved | None:
        return self._state.load(slice_key)

    def save(
        self,
        slice_key: str,
        position: Position,
        tokens: Mapping[str, Token],
        committed: Mapping[str, Counts] | None = None,
    ) -> None:
        self._state.save(slice_key, position, tokens, committed)

    def reject(self, rejects: Iterable[Reject]) -> None:
        self._state.reject(rejects)

    def progress(self, progress: StreamProgress) -> None:
        self._state.progress(progress)
        self._watcher.progress(progress)

    def log(self, level: str, message: str, stream: str | None = None) -> None:
        self._state.log(level, message, stream)
        self._watcher.log(level, message, stream)
