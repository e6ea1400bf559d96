"""What a transform is: a function over one batch, nothing more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from headrace.connector.config import Config
from headrace.model.event import Batch

Transform = Callable[[Batch], Batch]
"""Vectorised; must work on a batch of no rows, since a stream's new schema is found that way.

Rows that cannot go on come back in `Batch.rejects`, rows left out in `Batch.skipped`; `changes` and
`unchanged` stay aligned with the rows.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformSpec:
    """One transform of the catalogue: `make` turns validated settings into the function."""

    name: str
    title: str
    config: type[Config]
    make: Callable[..., Transform]


def keep(batch: Batch, mask: pa.Array, rows: pa.RecordBatch | None = None) -> Batch:
    """The batch with only the rows where `mask` is true; `rows` replaces its rows beforehand."""
    rows = batch.rows if rows is None else rows
    return Batch(
        batch.stream,
        rows.filter(mask),
        None if batch.changes is None else batch.changes.filter(mask),
        None if batch.unchanged is None else {c: a.filter(mask) for c, a in batch.unchanged.items()},
        batch.rejects,
        batch.skipped,
    )
