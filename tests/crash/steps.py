"""Ends this process right before a step of a target's maintenance, on disk or in the catalogue."""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path
from typing import Any

from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.io.pyarrow import PyArrowFileIO

ICEBERG: tuple[tuple[Any, str], ...] = (
    (PyArrowFileIO, "new_output"),
    (PyArrowFileIO, "delete"),
    (SqlCatalog, "commit_table"),
)
LOCAL: tuple[tuple[Any, str], ...] = ((os, "link"), (Path, "unlink"))


def die_before(step: int, steps: tuple[tuple[Any, str], ...] = ICEBERG) -> None:
    """From now on, the `step`-th (from 1) file made or deleted, or commit, is where this process ends."""
    passed = itertools.count(1)

    def dies(function: Any) -> Any:
        def instead(*args: Any, **kwargs: Any) -> Any:
            if next(passed) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return instead

    for owner, name in steps:
        setattr(owner, name, dies(getattr(owner, name)))
