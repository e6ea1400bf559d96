from __future__ import annotations

import os

import pytest

from headrace import native


def test_the_kernels_were_compiled() -> None:
    """Without them all is as right, and slower: what is lost must show somewhere."""
    missing = native.missing()
    if missing and "kernels" not in os.environ.get("HEADRACE_REQUIRE", "").split(","):
        pytest.skip(missing)
    assert missing is None
