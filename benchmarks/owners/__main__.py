"""`python -m benchmarks.owners [--owners 10000] [--quick]`"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.owners.layouts import BOUNDED_OPEN_INDEXES, DIMENSIONS, VECTORS_PER_OWNER
from benchmarks.record import ROOT, Record, output_arguments
from memos_vllm.plaintext.search.vector_store import BUCKETS

CAPS = {"per_owner_unbounded": 1500, "per_owner_bounded": 3000}
"""Owners at which a layout stops. More would take minutes and gigabytes."""
QUICK_OWNERS = 40
SEARCHES = 1000


def measure(name: str, owners: int, searches: int) -> dict[str, Any]:
    """Fill and search one layout, each phase in its own process."""
    print(f"{name}: {owners} owners", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="memos-owners-") as folder:
        row: dict[str, Any] = {"layout": name, "owners": owners}
        row |= _worker("fill", name, folder, owners, searches)
        row["disk_mb"] = round(_bytes(Path(folder)) / 1e6, 1)
        row |= _worker("search", name, folder, owners, searches)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.owners")
    parser.add_argument("--owners", type=int, default=10_000)
    parser.add_argument("--unbounded-owners", type=int, default=CAPS["per_owner_unbounded"])
    parser.add_argument("--bounded-owners", type=int, default=CAPS["per_owner_bounded"])
    output_arguments(parser)
    arguments = parser.parse_args()
    owners = QUICK_OWNERS if arguments.quick else arguments.owners
    wanted = {
        "per_owner_unbounded": min(owners, arguments.unbounded_owners),
        "per_owner_bounded": min(owners, arguments.bounded_owners),
        "buckets": owners,
    }
    searches = 50 if arguments.quick else SEARCHES
    rows = {name: measure(name, count, searches) for name, count in wanted.items()}
    for name, row in rows.items():
        row["stopped_early"] = row["owners"] < owners
        print(f"{name}: {json.dumps(row)}", file=sys.stderr)
    record = Record(
        "owners",
        options="--quick" if arguments.quick else f"--owners {owners}",
        config={
            "vectors_per_owner": VECTORS_PER_OWNER,
            "dimensions": DIMENSIONS,
            "buckets": BUCKETS,
            "bounded_open_indexes": BOUNDED_OPEN_INDEXES,
            "searches": searches,
            "error_share": "searches that failed or lacked vectors of the owner, of all searches",
            "filling_*": "measured in the process that filled the store, the others in a fresh one",
        },
        headline=_headline(rows),
        rows=list(rows.values()),
    )
    record.finish(quick=arguments.quick, out=arguments.out)


def _headline(rows: dict[str, dict[str, Any]]) -> dict[str, float]:
    ours, bounded = rows["buckets"], rows["per_owner_bounded"]
    return {
        "search_ms_p50": ours["search_ms_p50"],
        "search_ms_p99": ours["search_ms_p99"],
        "rss_mb": ours["rss_mb"],
        "file_handles": ours["file_handles"],
        "per_owner_bounded_error_share": max(
            bounded["error_share"], bounded["filling_error_share"]
        ),
    }


def _worker(phase: str, name: str, folder: str, owners: int, searches: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.owners.worker", phase, "--layout", name]
    command += ["--folder", folder, "--owners", str(owners), "--searches", str(searches)]
    answer = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(answer.stdout.splitlines()[-1]))


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


if __name__ == "__main__":
    main()
