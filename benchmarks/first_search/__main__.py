"""`python -m benchmarks.first_search [--items 10000] [--quick]`: the first search of a large owner after a start.

Real SQLite and Chroma; words by Zipf's law, random unit vectors.  Each start is a process of its own; the first
has no files of derived data.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np

from benchmarks.record import ROOT, Record, output_arguments
from memos_vllm.config.tree import Config
from memos_vllm.cube.ids import PersonId, TenantId
from memos_vllm.cube.model import ExplicitPayload, Item, NewCube
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.plaintext.embed.model import Vectors
from memos_vllm.system import MemorySystem

DIMENSIONS = 384
ITEMS_PER_CUBE = 64
VOCABULARY = 6000
LENGTHS = (8, 15, 30, 60)  # words
PRINCIPAL = Principal(TenantId("acme"), Role.WRITER, "benchmark", PersonId("alice"))
STARTS = 5
SEARCHES = 60


def fill(home: Path, items: int) -> None:
    """Store items of one owner in cubes of a conversation's size, with random vectors."""
    rng, words = np.random.default_rng(0), random.Random(0)
    vocabulary = [
        "".join(words.choices("abcdefghijklmnopqrstuvwxyz", k=words.randint(3, 9)))
        for _ in range(VOCABULARY)
    ]
    weights = [1 / (rank + 5) for rank in range(VOCABULARY)]

    def text() -> str:
        return " ".join(words.choices(vocabulary, weights, k=words.choice(LENGTHS))).capitalize()

    system = MemorySystem(Config(home=home)).open()
    with mock.patch.object(system.embedder, "embed", lambda texts: _vectors(rng, len(texts))):
        for start in range(0, items, ITEMS_PER_CUBE):
            content = [
                Item(text=f"{text()}.", speaker=speaker, session=str(start))
                for _, speaker in zip(
                    range(min(ITEMS_PER_CUBE, items - start)),
                    ["alice", "assistant"] * items,
                    strict=False,
                )
            ]
            system.create(PRINCIPAL, [NewCube(payload=ExplicitPayload(content=content))])
    system.close()


def search(home: Path, searches: int) -> dict[str, float]:
    """Milliseconds of the first search, and the median of the later ones."""
    system = MemorySystem(Config(home=home)).open()
    rng = np.random.default_rng(1)
    taken = []
    for number in range(1 + searches):
        vector = _vectors(rng, 1)[0]
        question = f"What did alice say about the trip to the lake, number {number}?"
        started = time.perf_counter()
        assert system.search(PRINCIPAL, question, vector, 8).degraded is None
        taken.append(1000 * (time.perf_counter() - started))
    system.close()
    return {"first_ms": round(taken[0], 1), "later_ms_p50": round(float(np.median(taken[1:])), 1)}


def _vectors(rng: np.random.Generator, count: int) -> Vectors:
    rows = rng.standard_normal((count, DIMENSIONS), dtype=np.float32)
    unit: Vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def _start(home: str, searches: int) -> dict[str, float]:
    command = [sys.executable, "-m", __spec__.name, "--home", home, "--searches", str(searches)]
    answer = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(answer.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.first_search")
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)  # a start
    parser.add_argument("--searches", type=int, default=SEARCHES, help=argparse.SUPPRESS)
    output_arguments(parser)
    arguments = parser.parse_args()
    if arguments.home is not None:
        print(json.dumps(search(arguments.home, arguments.searches)))
        return
    items = 200 if arguments.quick else arguments.items
    with tempfile.TemporaryDirectory(prefix="memos-first-search-") as home:
        fill(Path(home), items)
        rows = [
            {"start": number, "derived_files": number > 0, **_start(home, arguments.searches)}
            for number in range(2 if arguments.quick else 1 + STARTS)
        ]
    for row in rows:
        print(json.dumps(row), file=sys.stderr)
    with_files = [row for row in rows if row["derived_files"]]
    record = Record(
        "first_search",
        options="--quick" if arguments.quick else f"--items {items}",
        config={"items": items, "items_per_cube": ITEMS_PER_CUBE, "dimensions": DIMENSIONS},
        headline={
            "first_ms_without_files": rows[0]["first_ms"],
            "first_ms": float(np.median([row["first_ms"] for row in with_files])),
            "later_ms_p50": float(np.median([row["later_ms_p50"] for row in with_files])),
        },
        rows=rows,
    )
    record.finish(quick=arguments.quick, out=arguments.out)


if __name__ == "__main__":
    main()
