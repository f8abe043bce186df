"""Speed of the machine between two measurements: a computation of constant size."""

from __future__ import annotations

import statistics
import time
from collections.abc import Collection

import numpy as np

SIZE = 1024
REPETITIONS = 3
SLOW = 1.25
"""A slice whose reference took longer than so many medians is dropped."""

_matrix = np.random.default_rng(0).standard_normal((SIZE, SIZE)).astype(np.float32)


def reference_seconds() -> float:
    """Time of REPETITIONS products of two float32 matrices with SIZE rows and columns.

    Some 30 ms in all: long enough for another process to interrupt it.
    """
    started = time.perf_counter()
    for _ in range(REPETITIONS):
        _matrix @ _matrix
    return time.perf_counter() - started


def limit(references: Collection[float]) -> float:
    """The longest reference time of a slice that counts, in seconds."""
    return SLOW * statistics.median(references)
