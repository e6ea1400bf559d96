"""Pull events in a thread of their own, through a queue bounded by bytes."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from headrace.connector import Batch, Event
from headrace.engine.stop import Stop
from headrace.errors import TransientError


@dataclass(frozen=True, slots=True)
class Pulled:
    """An event on its way, with the source rows and Arrow bytes that it accounts for."""

    event: Event
    rows: int = 0
    bytes: int = 0


_WEIGHT = 1024  # bytes that any event takes, however small

_POLL = 0.2  # seconds between looks at the stop signal while waiting


class Aborted(Exception):
    """The run was told to end at once."""


class _Channel:
    """A queue between one producer and one consumer that holds at most `limit` bytes, or one event."""

    def __init__(self, limit: int):
        self.limit = limit
        self.events: deque[Pulled] = deque()
        self.held = 0
        self.ended = False
        self.abandoned = False
        self.error: BaseException | None = None
        self.changed = threading.Condition()

    def put(self, pulled: Pulled) -> bool:
        """False when nobody listens any more."""
        with self.changed:
            while self.events and self.held + pulled.bytes + _WEIGHT > self.limit and not self.abandoned:
                self.changed.wait()
            if self.abandoned:
                return False
            self.events.append(pulled)
            self.held += pulled.bytes + _WEIGHT
            self.changed.notify_all()
            return True

    def end(self, error: BaseException | None) -> None:
        with self.changed:
            self.error = error
            self.ended = True
            self.changed.notify_all()

    def abandon(self) -> None:
        with self.changed:
            self.abandoned = True
            self.events.clear()
            self.changed.notify_all()


def _produce(events: Iterable[Pulled], channel: _Channel) -> None:
    try:
        for pulled in events:
            if not channel.put(pulled):
                break
    except BaseException as error:
        channel.end(error)
    else:
        channel.end(None)


def _consume(channel: _Channel, stop: Stop, patience: float) -> Iterator[Pulled]:
    while True:
        waited = 0.0
        with channel.changed:
            while not channel.events and not channel.ended:
                channel.changed.wait(_POLL)
                waited += _POLL
                if stop.aborted:
                    raise Aborted
                if waited >= patience:
                    raise TransientError(
                        "engine.stalled",
                        f"the source yielded nothing for {patience:.0f} seconds",
                        remedy="Look at the source: a lock, a full disk or a dead network path may hold it.",
                    )
            if not channel.events:
                break
            pulled = channel.events.popleft()
            channel.held -= pulled.bytes + _WEIGHT
            channel.changed.notify_all()
        if stop.aborted:
            raise Aborted
        yield pulled
    if channel.error is not None:
        raise channel.error


@contextmanager
def overlap(
    events: Iterable[Pulled], limit: int, stop: Stop, patience: timedelta
) -> Iterator[Iterator[Pulled]]:
    """Iterate over `events` while a thread pulls them ahead, at most `limit` bytes of rows.

    A consumer that is slow slows the producer. On leaving, the producer ends at its next event; one
    that is blocked inside a driver is not waited for: the caller interrupts the source.
    Raises Aborted when `stop` says so, and TransientError after `patience` of silence.
    """
    channel = _Channel(limit)
    thread = threading.Thread(target=_produce, args=(events, channel), name="headrace-read", daemon=True)
    thread.start()
    try:
        yield _consume(channel, stop, patience.total_seconds())
    finally:
        channel.abandon()


def pulled(events: Iterable[Event], rows: int) -> Iterator[Pulled]:
    """The source's events, in batches of at most `rows` rows."""
    for event in events:
        if not isinstance(event, Batch):
            yield Pulled(event)
            continue
        for start in range(0, max(event.rows.num_rows, 1), rows):
            batch = event if event.rows.num_rows <= rows else _cut(event, start, rows)
            yield Pulled(batch, batch.read, batch.rows.nbytes)


def _cut(batch: Batch, start: int, rows: int) -> Batch:
    """Rows `start` to `start + rows`; the first piece answers for the rejected and skipped ones."""
    return Batch(
        batch.stream,
        batch.rows.slice(start, rows),
        None if batch.changes is None else batch.changes.slice(start, rows),
        None if batch.unchanged is None else {c: a.slice(start, rows) for c, a in batch.unchanged.items()},
        batch.rejects if start == 0 else (),
        batch.skipped if start == 0 else {},
    )
