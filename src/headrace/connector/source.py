"""What a source must do: check, discover, cut into slices, read, and be told what it may forget."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Generic

from headrace.connector.config import ConfigT
from headrace.errors import HeadraceError
from headrace.model.event import Event
from headrace.model.stream import Position, Slice, Stream, StreamRead


@dataclass(frozen=True, slots=True)
class Selection:
    """Which streams are asked for: stream ids or shell patterns. No `include` means all."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __contains__(self, stream_id: str) -> bool:
        return (
            not self.include or any(stream_id == p or fnmatchcase(stream_id, p) for p in self.include)
        ) and not any(stream_id == p or fnmatchcase(stream_id, p) for p in self.exclude)


EVERYTHING = Selection()


class Source(ABC, Generic[ConfigT]):
    """One connection to a system that is read.

    Order of calls: `check` and `discover` at any time; for a run `slices`, then `read` for each slice
    (from several threads, and from other processes that hold a source of their own), `acknowledge` as
    progress becomes durable, `close` once. Everything but `read` and `interrupt` is called from one
    thread. Errors raised are ours (`headrace.errors`); a driver's own are translated by the connector.
    """

    keep_settings: Callable[[Mapping[str, Any]], None] | None = None
    """Stores settings that the far side changed (a refresh token that is good once), at once and for good.

    Set by who opened the source, and called by it from any thread; None where nothing can be stored.
    """

    def __init__(self, config: ConfigT):
        self.config = config

    @abstractmethod
    def check(self) -> None:
        """Return when a run could start; else raise an error that names the field and the remedy."""

    @abstractmethod
    def discover(self, selection: Selection = EVERYTHING) -> Iterable[Stream]:
        """The streams that can be read, in a stable order, read from the far side at each call."""

    def unreadable(self, name: str) -> HeadraceError | None:
        """Why a stream that the user named and `discover` does not give can't be read, if it does exist."""
        return None

    def slices(self, reads: Sequence[StreamRead], since: Mapping[str, Position]) -> Iterable[Slice]:
        """Cut the work of one run. `since` gives the position of each stream id; absent is the start.

        The default is one slice a stream that publishes at its own checkpoints. A slice's key names
        the same piece of work in every run, so that a later attempt can find it again.
        """
        return [Slice(key=read.stream.id, reads=(read,)) for read in reads]

    def holds(self, slice: Slice, rows: int) -> bool:
        """Would `slice`, which an earlier attempt read to its end as `rows` rows, read the same today?

        Called after `slices`, for slices with `until`, so that a killed load resumes. False is always
        safe: the slice is read again. True must be certain.
        """
        return False

    @abstractmethod
    def read(self, slice: Slice, since: Position) -> Iterator[Event]:
        """Everything in the slice after `since`, which is a position of this slice or `{}`.

        Yields something at least every few seconds: a Checkpoint with the current position while there
        is nothing to read. What follows the last Checkpoint is covered by the end of the iteration,
        except that a source which ends early must raise.
        """

    def interrupt(self) -> None:
        """Called from another thread: make a `read` that is blocked in a driver end soon."""

    def order(self, position: Position) -> tuple[Any, ...]:
        """A key by which positions of one slice compare; the default takes the values by name."""
        return tuple(position[name] for name in sorted(position))

    def acknowledge(self, slice: Slice, position: Position) -> None:
        """Rows up to `position` are durable in the target: the far side may forget them only now."""

    def forget(self) -> None:
        """The pipeline is deleted: drop what outlives a run (slots, publications, groups)."""

    def close(self) -> None:
        """Let go of connections. May be called twice, and after any error."""
