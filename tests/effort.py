"""How long generated tests search: `MEMOS_TEST_EFFORT=20 pytest tests/unit/test_api_fuzz.py`."""

from __future__ import annotations

import os

import pytest

EFFORT = float(os.environ.get("MEMOS_TEST_EFFORT", "1"))


def examples(count: int) -> int:
    """Number of generated examples: `count` in an ordinary run."""
    return max(1, round(count * EFFORT))


long = pytest.mark.skipif(EFFORT < 2, reason="takes minutes: MEMOS_TEST_EFFORT=2 runs it")
"""Mark of a test whose parts other tests run, too: another victim, another benchmark's smoke run."""
