"""`python -m benchmarks.acl [--before COMMIT] [--quick]`

before    the code of the last commit without grants, in a worktree of its own
plain     today's code, nothing granted
groups    today's code: each person's cube is granted to one of 100 groups, each person is in ten
cedar     the decisions of `groups` for one person, by cedarpy (where it is installed)
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.acl import cedar
from benchmarks.record import ROOT, Record, output_arguments

BEFORE = "860b428"
SIZES = {"cubes": 10_000, "shared": 3_000, "people": 100, "members": 10}
QUICK = {"cubes": 300, "shared": 90, "people": 10, "members": 2}
TIMES = ("list_ms", "prompt_ms", "first_search_ms", "search_ms")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.acl")
    parser.add_argument("--before", default=BEFORE, help="commit without grants")
    parser.add_argument("--repeats", type=int, default=5)
    output_arguments(parser)
    arguments = parser.parse_args()
    sizes = QUICK if arguments.quick else SIZES
    groups = sizes["people"]
    with tempfile.TemporaryDirectory(prefix="memos-acl-") as name:
        home = Path(name)
        old = home / "before"
        _git("worktree", "add", "--detach", str(old), arguments.before)
        try:
            parts = {"before": (old, 0), "plain": (ROOT, 0), "groups": (ROOT, groups)}
            rows = _measured(home, parts, sizes, 1 if arguments.quick else arguments.repeats)
        finally:
            _git("worktree", "remove", "--force", str(old))
    try:
        rows.append(cedar.measure(**sizes, groups=groups))
    except ImportError:
        print("cedarpy is not installed: its row is left out", file=sys.stderr)
    by_part = {row["part"]: row for row in rows}
    record = Record(
        "acl",
        config=sizes | {"groups": groups, "before": arguments.before},
        headline={
            f"plain_{each}_over_before": round(by_part["plain"][each] / by_part["before"][each], 2)
            for each in TIMES
        },
        rows=rows,
    )
    record.finish(quick=arguments.quick, out=arguments.out)


def _measured(
    home: Path, parts: dict[str, tuple[Path, int]], sizes: dict[str, int], repeats: int
) -> list[dict[str, Any]]:
    """Each part in processes of its own, in turn, so that the machine's load falls on all alike."""
    found: dict[str, list[dict[str, Any]]] = {part: [] for part in parts}
    for turn in range(repeats + 1):  # the first one fills
        for part, (code, groups) in parts.items():
            folder = home / f"{part}-data"
            folder.mkdir(exist_ok=True)
            rounds = min(20, sizes["people"])
            order = sizes | {"folder": str(folder), "groups": groups, "rounds": rounds}
            answer = _worker(code, order)
            if turn:
                found[part].append(answer)
    return [
        {"part": part}
        | {each: round(statistics.median(row[each] for row in rows), 3) for each in TIMES}
        | {"cubes_in_reach": rows[0]["cubes_in_reach"]}
        for part, rows in found.items()
    ]


def _worker(code: Path, order: dict[str, Any]) -> dict[str, Any]:
    worker = Path(__file__).with_name("worker.py")
    environment = os.environ | {"PYTHONPATH": str(code)}
    answer = subprocess.run(
        [sys.executable, str(worker), json.dumps(order)],
        cwd=code,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return dict(json.loads(answer.stdout.splitlines()[-1]))


def _git(*arguments: str) -> None:
    subprocess.run(["git", "-C", str(ROOT), *arguments], check=True, capture_output=True)


if __name__ == "__main__":
    main()
