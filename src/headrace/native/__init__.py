"""Kernels in plain C, compiled when the package is built; whoever uses them can do without."""

from __future__ import annotations

import ctypes
import functools
import sys
from pathlib import Path

ABI = 3
SUFFIX = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
PATH = Path(__file__).with_name(f"kernels{SUFFIX}")


def library() -> ctypes.CDLL | None:
    """The kernels; None where they were not compiled. A call lets go of the interpreter lock."""
    found = _load()
    return None if isinstance(found, str) else found


def missing() -> str | None:
    """Why there are no kernels; None when there are."""
    found = _load()
    return found if isinstance(found, str) else None


@functools.cache
def _load() -> ctypes.CDLL | str:
    if not PATH.exists():
        return "not compiled, because no C compiler was found when this was installed"
    try:
        found = ctypes.CDLL(str(PATH))
        if found.headrace_abi() != ABI:
            return "compiled from other sources than these"
    except (OSError, AttributeError) as error:
        return f"the library can't be loaded: {error}"
    return found
