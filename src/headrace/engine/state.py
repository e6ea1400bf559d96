"""What the engine needs remembered: a port, which the store happens to fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from headrace.connector import Position, Reject, Token
from headrace.connector.target import Saved, StagedSlice
from headrace.model.run import Counts, StreamProgress

__all__ = ["Saved", "StagedSlice", "State"]


class State(Protocol):
    """The memory of one attempt of a run, under the lease of its pipeline.

    Every write raises ConflictError (`store.lease_lost`) once the lease has been taken over: it checks
    epoch and holder in the same transaction.
    """

    @property
    def run(self) -> str:
        """The id of the run, the same for all its attempts."""

    @property
    def epoch(self) -> int:
        """The epoch of the lease."""

    def raise_epoch(self, at_least: int) -> int:
        """Move the lease's epoch up to `at_least` (the target may remember more than we); gives the epoch."""

    def load_staged(self, stream: str) -> list[StagedSlice]:
        """The slices of the stream's unpublished load that earlier attempts staged."""

    def save_staged(self, stream: str, done: StagedSlice) -> None:
        """Remember a staged slice, with our epoch; the same slice key again takes its place."""

    def drop_staged(self, stream: str) -> None:
        """The load was published or given up."""

    def load(self, slice_key: str) -> Saved | None:
        """The last checkpoint of a slice."""

    def save(
        self,
        slice_key: str,
        position: Position,
        tokens: Mapping[str, Token],
        committed: Mapping[str, Counts] | None = None,
    ) -> None:
        """Remember a slice's checkpoint and a token for each of its streams, by stream id (see `Saved`);
        and what readers of each table see by now of this run, where it has published at all."""

    def reject(self, rejects: Iterable[Reject]) -> None:
        """Store dead letters; the same `stream` and `where` of this pipeline is stored once."""

    def progress(self, progress: StreamProgress) -> None:
        """Show where a stream is; the last word for the stream wins."""

    def log(self, level: str, message: str, stream: str | None = None) -> None:
        """One line for the run's log; level is debug, info, warning or error."""
