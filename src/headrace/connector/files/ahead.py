"""Work on pieces in threads, with the answers in the order of the pieces."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


def ahead(pieces: Iterable[In], work: Callable[[In], Out], threads: int) -> Iterator[Out]:
    """What `work` makes of each piece; a few pieces are taken and worked on ahead."""
    waiting: deque[Future[Out]] = deque()
    with ThreadPoolExecutor(threads, "headrace-files") as pool:
        try:
            for piece in pieces:
                waiting.append(pool.submit(work, piece))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
