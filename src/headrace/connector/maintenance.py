"""What a target may do for the tables it has written: fewer and larger files, less history, no waste."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from headrace.errors import HeadraceError
from headrace.model.stream import Stream


def never() -> bool:
    """Nobody wants it to end early."""
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Maintenance:
    """What to do, and from where on.

    Without `tables` (names with their namespace), it is for the tables that Headrace has written. A
    `small_bytes` of None is half of the size at which the target closes its files. Ages are in days.
    Once `stopping` gives True, what is begun is brought to a good end and nothing more is begun.
    """

    tables: tuple[str, ...] = ()
    compact: bool = True
    expire: bool = True
    orphans: bool = True
    small_bytes: int | None = None
    min_files: int = 5
    deleted_share: float = 0.2
    expire_after: float = 7.0
    keep_snapshots: int = 10
    orphans_after: float = 3.0
    dry_run: bool = False
    stopping: Callable[[], bool] = never


@dataclass(frozen=True, slots=True, kw_only=True)
class Maintained:
    """One step for one table: `compact`, `expire` or `orphans`.

    `counts` says what was taken away and made, as the step names it; in a dry run, what would be.
    With `error`, the step did not come to its end, and the table is as good as before.
    """

    table: str
    step: str
    counts: Mapping[str, int] = field(default_factory=dict)
    error: HeadraceError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wear:
    """What has piled up in a table, as its last commit counts it; `small_files` are those too many."""

    table: str
    delete_files: int = 0
    small_files: int = 0


@runtime_checkable
class Maintainable(Protocol):
    """A target that can look after its tables, beside pipelines that write them.

    `maintain` does, and yields, those steps that make sense for its tables.
    """

    def wear(self, stream: Stream) -> Wear | None:
        """How worn the stream's table is: without listing or reading files. None if there is none."""

    def maintain(self, wanted: Maintenance) -> Iterator[Maintained]:
        """Do what is wanted, table by table, and say after each step what was done."""
