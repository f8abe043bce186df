"""One phase of one layout: `python -m benchmarks.owners.worker …`.

Prints one JSON object.  A process per phase, so that its memory and file handles are those of the layout.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.owners.layouts import (
    FAILURES,
    NAMES,
    VECTORS_PER_OWNER,
    Layout,
    ids_of,
    open_layout,
    vectors_of,
)

LAST_SHARE = 0.05
"""Share of the fill, at its end, over which the cost of a new owner is averaged."""


def fill(layout: Layout, owners: int, searches: int) -> dict[str, Any]:
    """Store every owner, then search in the same process, with indexes evicted."""
    each_ms: list[float] = []
    failures: list[str] = []
    start = time.perf_counter()
    for owner in range(owners):
        vectors = vectors_of(owner)
        before = time.perf_counter()
        try:
            layout.add(owner, vectors)
        except FAILURES as error:
            failures.append(_reason(error))
        each_ms.append((time.perf_counter() - before) * 1000)
        if owner % 1000 == 999:
            print(f"  {owner + 1} owners, {time.perf_counter() - start:.0f} s", file=sys.stderr)
    last = each_ms[-max(1, int(owners * LAST_SHARE)) :]
    return {
        "fill_seconds": round(time.perf_counter() - start, 1),
        "new_owner_ms_at_end": round(statistics.fmean(last), 2),
        "fill_errors": len(failures),
        **{f"filling_{name}": value for name, value in _resources().items()},
        **{f"filling_{name}": value for name, value in search(layout, owners, searches).items()},
    }


def search(layout: Layout, owners: int, searches: int) -> dict[str, Any]:
    """Search uniformly chosen owners for all of their vectors, and count missing ones."""
    choose = random.Random(0)
    each_ms: list[float] = []
    failures: list[str] = []
    lacking = missing = foreign = 0
    for turn in range(searches):
        owner = choose.randrange(owners)
        question = np.random.default_rng([turn, owner]).standard_normal(384).astype(np.float32)
        start = time.perf_counter()
        try:
            found = set(layout.search(owner, question, VECTORS_PER_OWNER))
        except FAILURES as error:
            failures.append(_reason(error))
            continue
        each_ms.append((time.perf_counter() - start) * 1000)
        missing += len(set(ids_of(owner)) - found)
        lacking += not set(ids_of(owner)) <= found
        foreign += len(found - set(ids_of(owner)))
    p50, p99 = np.percentile(each_ms, (50, 99)) if each_ms else (float("nan"), float("nan"))
    return {
        "searches": searches,
        "search_ms_p50": round(float(p50), 2) if each_ms else None,
        "search_ms_p99": round(float(p99), 2) if each_ms else None,
        "search_errors": len(failures),
        "searches_lacking_vectors": lacking,
        "vectors_missing": missing,
        "foreign_vectors": foreign,
        "error_share": round((len(failures) + lacking) / searches, 4),
        "first_error": failures[0] if failures else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.owners.worker")
    parser.add_argument("phase", choices=("fill", "search"))
    parser.add_argument("--layout", choices=NAMES, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--owners", type=int, required=True)
    parser.add_argument("--searches", type=int, default=1000)
    arguments = parser.parse_args()
    start = time.perf_counter()
    layout = open_layout(arguments.layout, arguments.folder)
    if arguments.phase == "fill":
        result = fill(layout, arguments.owners, arguments.searches)
    else:
        try:
            layout.search(0, vectors_of(0)[0], 1)
        except FAILURES as error:
            print(f"  the first search failed: {_reason(error)}", file=sys.stderr)
        opened = {"open_seconds": round(time.perf_counter() - start, 3)}
        result = opened | search(layout, arguments.owners, arguments.searches) | _resources()
    layout.close()
    print(json.dumps(result))


def _resources() -> dict[str, float]:
    process = psutil.Process()
    return {
        "rss_mb": round(process.memory_info().rss / 1e6, 1),
        "file_handles": process.num_fds(),
    }


def _reason(error: Exception) -> str:
    """Type and first line of an error."""
    first = str(error).splitlines()[0] if str(error) else ""
    return f"{type(error).__name__}: {first[:120]}"


if __name__ == "__main__":
    main()
