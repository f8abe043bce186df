"""`python -m benchmarks.kv_growth [--quick]`: cost of the KV store by the number of stored segments.

The store without an engine, on a real folder: planning a prompt of eight segments (keys and lookups),
loading a segment of 512 tokens, listing all files, and deleting a cube's KV, with 10, 1,000 and 100,000
stored segments.  All but eight are stubs, because only the number of files matters here.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import Record, output_arguments
from memos_vllm.activation.chain import Segment
from memos_vllm.activation.direct_io import Scratch
from memos_vllm.activation.files import Shape
from memos_vllm.activation.names import Namer, SegmentName
from memos_vllm.activation.store import SegmentStore
from memos_vllm.activation.tensors import TensorStore
from memos_vllm.config.tree import KVConfig

SIZES = (10, 1_000, 100_000)
TOKENS, SEGMENTS = 512, 8
SHAPE = Shape(layers=30, tokens=TOKENS, heads=3, head_dim=64, dtype=torch.bfloat16)
MODEL = bytes(32)
NAMER = Namer(MODEL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=51)
    output_arguments(parser)
    arguments = parser.parse_args()
    sizes = SIZES[:2] if arguments.quick else SIZES
    record = Record(
        "kv_growth",
        config={"repetitions": arguments.repetitions, "segment_tokens": TOKENS, "chain": SEGMENTS},
    )
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "ram").mkdir()
        made = 0
        for size in sizes:
            made = fill(home, made, size)
            record.rows.append({"segments": size} | measure(home, arguments.repetitions))
    first, last = record.rows[0], record.rows[-1]
    for name in ("plan_ms", "load_ms"):
        record.headline[f"{name[:-3]}_at_{last['segments']}_over_{first['segments']}"] = round(
            last[name] / first[name], 2
        )
    record.headline["bytes_per_token"] = last["bytes_per_token"]
    record.finish(quick=arguments.quick, out=arguments.out)


def opened(folder: Path) -> TensorStore:
    config = KVConfig(ram_path=folder / "ram", ram_bytes=0, max_bytes=1 << 50)
    return TensorStore(SegmentStore(config, folder / "kv"))


def fill(folder: Path, made: int, size: int) -> int:
    """A real chain first, then stub files of 1,000 people and 5,000 cubes; returns the number of files."""
    store = opened(folder)
    if not made:
        for name, segment in chain():
            store.add(name, SHAPE, layers(), segment.cubes, {"digest": name.key})
        made = SEGMENTS
    for number in range(made, size):
        name = SegmentName.of(MODEL, f"person-{number % 1000}", f"{number:040x}")
        path = store.segments.disk.path(str(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(64))
        mark = store.segments.mark(f"cube-{number % 5000}@1", name)
        mark.parent.mkdir(exist_ok=True)
        mark.touch()
    return size


def chain() -> list[tuple[SegmentName, Segment]]:
    tokens, segments = prompt()
    return [(n[0], s) for n, s in zip(NAMER.names(tokens, segments), segments, strict=True)]


def prompt() -> tuple[list[int], list[Segment]]:
    segments = [
        Segment((i + 1) * TOKENS, "person", tuple(f"head-{c}@1" for c in range(i + 1)))
        for i in range(SEGMENTS)
    ]
    return list(range(SEGMENTS * TOKENS)), segments


def layers() -> Iterator[torch.Tensor]:
    for _ in range(SHAPE.layers):
        yield torch.zeros(*SHAPE.sizes()[1:], dtype=SHAPE.dtype)


def measure(folder: Path, repetitions: int) -> dict[str, Any]:
    store, scratch = opened(folder), Scratch()
    names = [name for name, _ in chain()]
    tokens, segments = prompt()

    def plan() -> None:
        for found in NAMER.names(tokens, segments):
            assert store.segments.has_all(found)

    def load() -> None:
        with store.open(names[0]) as (reader, _):
            for _ in reader.layers(scratch):
                pass

    def forget() -> None:
        store.segments.forget("no-such-cube")

    path = store.segments.disk.path(str(names[0]))
    return {
        "plan_ms": milliseconds(plan, repetitions),
        "load_ms": milliseconds(load, repetitions),
        "list_all_ms": milliseconds(lambda: opened(folder).segments.disk.totals(), 3),
        "forget_ms": milliseconds(forget, 9),
        "bytes_per_token": round(path.stat().st_size / TOKENS),
    }


def milliseconds(work: Callable[[], object], repetitions: int) -> float:
    taken = []
    for _ in range(repetitions):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return round(1000 * statistics.median(taken), 3)


if __name__ == "__main__":
    main()
