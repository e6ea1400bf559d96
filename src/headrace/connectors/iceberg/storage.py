"""Files that nothing refers to any more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from pyiceberg.io import FileIO


def remove(io: FileIO, paths: Sequence[str]) -> None:
    """Delete files that nothing refers to; what cannot be deleted stays behind, invisible."""
    for path in paths:
        quietly(partial(io.delete, path))


def quietly(action: Callable[[], Any]) -> None:
    try:
        action()
    except Exception:
        return
