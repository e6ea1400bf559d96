"""What is to be reached: ratios inside one run of the benchmarks, and whether they were."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.contest import median

Runs = Mapping[str, Sequence[Mapping[str, Any]]]


@dataclass(frozen=True)
class Mark:
    """`found` is None when a side that it takes did not run, or its copy was wrong."""

    mark: str
    wanted: float
    found: float | None
    most: bool = False

    @property
    def reached(self) -> bool:
        if self.found is None:
            return False
        return self.found <= self.wanted if self.most else self.found >= self.wanted

    def record(self) -> dict[str, Any]:
        found = None if self.found is None else round(self.found, 3)
        return {**asdict(self), "found": found, "reached": self.reached}


def against(
    runs: Runs, mark: str, wanted: float, ours: str, others: Sequence[str], what: str = "wall"
) -> Mark:
    """How many times as fast as the best of `others` we are, by the seconds that `what` names."""
    mine = median(runs, ours, what)
    best = min(
        (seconds for name in others if (seconds := median(runs, name, what)) is not None), default=None
    )
    return Mark(mark, wanted, None if mine is None or best is None else best / mine)


def peak(runs: Runs, mark: str, most_mb: float, ours: str) -> Mark:
    taken = runs.get(ours, ())
    return Mark(mark, most_mb, max((run["peak_mb"] for run in taken), default=None), most=True)


def line(mark: Mapping[str, Any]) -> str:
    """As it is printed: `reached  P1 …: 2.71, wanted 2.5 or more`."""
    found = "not measured" if mark["found"] is None else f"{mark['found']:g}"
    bound = "or less" if mark["most"] else "or more"
    word = "reached" if mark["reached"] else "MISSED "
    return f"{word}  {mark['mark']}: {found}, wanted {mark['wanted']:g} {bound}"


Marks = Callable[[Runs], Sequence[Mark]]
