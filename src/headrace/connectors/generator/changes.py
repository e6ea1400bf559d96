"""What happens to a generated table after its load, and how the table looks at any point of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.connector import Change
from headrace.connectors.generator import GeneratorConfig
from headrace.connectors.generator.tables import TABLES, Ints, Mask, make_rows, noise

_BLOCK = 65_536


@dataclass(frozen=True, slots=True)
class History:
    """One entry an event: the row number it touches and the `Change` it makes."""

    numbers: Ints
    kinds: Ints


def history(config: GeneratorConfig, stream: str, events: int) -> History:
    """The first `events` changes; a longer history begins with the shorter one.

    Three in ten insert a new row, two in ten delete and the rest update a row chosen from all that
    ever were. A choice that falls on a deleted row inserts it again, so keys come back as they do in
    life.
    """
    cells = noise(stream, config.seed, np.arange(events))
    dice = cells.below(10)
    new = dice < 3
    if config.rows == 0 and events:
        new[0] = True
    born = config.rows + np.cumsum(new)
    chosen = (cells.bits() % np.maximum(born - new, 1).astype(np.uint64)).astype(np.int64) + 1
    numbers = np.where(new, born, chosen)
    return History(numbers, _kinds(numbers, new, (dice >= 8) & ~new))


def _kinds(numbers: Ints, new: Mask, wants_delete: Mask) -> Ints:
    """Settle each event by what its row has been through.

    In a row's own sequence of events, a delete that follows a delete finds no row and inserts; so in a
    run of deletes every second one is an insert, and an update inserts if the run before it left
    no row.
    """
    order = np.argsort(numbers, kind="stable")
    rows, deletes = numbers[order], wants_delete[order]
    at = np.arange(len(order))
    first = np.ones(len(order), bool)
    first[1:] = rows[1:] != rows[:-1]
    starts_run = deletes & (first | ~np.concatenate([[False], deletes[:-1]]))
    run_start = np.maximum.accumulate(np.where(starts_run, at, 0))
    gone = deletes & ((at - run_start) % 2 == 0)
    was_gone = ~first & np.concatenate([[False], gone[:-1]])
    settled = np.where(gone, Change.DELETE, np.where(was_gone | new[order], Change.INSERT, Change.UPDATE))
    kinds = np.empty(len(order), np.int64)
    kinds[order] = settled
    return kinds


def change_rows(config: GeneratorConfig, stream: str, past: History, first: int, last: int) -> pa.RecordBatch:
    """The rows of the events `first` to `last` (excluded); a delete has only its key."""
    numbers = past.numbers[first:last]
    rows = make_rows(stream, config.seed, numbers, np.arange(first, last) + 1)
    mask = pa.array(past.kinds[first:last] != Change.DELETE)
    keys = TABLES[stream].keys
    present = [c if at < keys else _null_unless(mask, c) for at, c in enumerate(rows.columns)]
    return pa.RecordBatch.from_arrays(present, schema=rows.schema)


def _null_unless(mask: pa.Array, column: pa.Array) -> pa.Array:
    return pc.if_else(mask, column, pa.scalar(None, column.type))


def load_rows(config: GeneratorConfig, stream: str) -> pa.Table:
    """All rows of the load, by number."""
    return _collect(config, stream, np.arange(1, config.rows + 1), np.zeros(config.rows, np.int64))


def final_rows(config: GeneratorConfig, stream: str, events: int) -> pa.Table:
    """The table after the load and the first `events` changes, by number."""
    past = history(config, stream, events)
    versions = np.zeros(max(config.rows, int(past.numbers.max(initial=0))), np.int64)
    # Of several assignments to one element numpy keeps the last, which is the latest event.
    versions[past.numbers - 1] = np.where(past.kinds == Change.DELETE, -1, np.arange(events) + 1)
    alive = np.flatnonzero(versions >= 0)
    return _collect(config, stream, alive + 1, versions[alive])


def blocks(config: GeneratorConfig, stream: str, first: int, last: int) -> Iterator[pa.RecordBatch]:
    """The loaded rows `first` to `last` (included) in batches of `batch_rows`."""
    for start in range(first, last + 1, config.batch_rows):
        stop = min(start + config.batch_rows, last + 1)
        yield make_rows(stream, config.seed, np.arange(start, stop))


def _collect(config: GeneratorConfig, stream: str, numbers: Ints, versions: Ints) -> pa.Table:
    parts = [
        make_rows(stream, config.seed, numbers[at : at + _BLOCK], versions[at : at + _BLOCK])
        for at in range(0, len(numbers), _BLOCK)
    ]
    return pa.Table.from_batches(parts, schema=TABLES[stream].schema)
