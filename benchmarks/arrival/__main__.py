"""`python -m benchmarks.arrival [--repeats 7] [--quick]`: how fast a bundle of memory answers on arrival.

Each repetition publishes a bundle of another handbook, installs it on one running server and approves it; its
KV is built behind the approval. Then, one request at a time, each with a question of its own:

first    the first question to the bundle, as soon as its KV is stored
warm     later questions, median of three: the limit
cold     the same handbook, pasted into the system message by the client: a full prefill
none     no memory

Ratios are taken inside a repetition; a repetition in which the machine was slow is in all of its parts.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx

from benchmarks.overhead.slices import WORDS
from benchmarks.record import Record, output_arguments
from memos_vllm.config.load import load_config
from memos_vllm.cube.model import ExplicitPayload, Item, NewCube, NewMeta, Placement
from memos_vllm.demo.embedder import demo_embedder_path
from memos_vllm.governance.principal import Principal, Role, TenantId
from memos_vllm.memstore.publish import About, publish
from memos_vllm.memstore.registry import FolderRegistry
from memos_vllm.memstore.signing import PublisherKey
from memos_vllm.system import MemorySystem
from tests.engine.harness import MODEL, Server, wait_for

PUBLISHER = Principal(TenantId("publisher"), Role.ADMIN, "bench")
STORE = "/v1/memory/store"
LINES, QUICK_LINES = 36, 8
WARM = 3
PAUSE_SECONDS = 0.3
_questions = itertools.count(1)


class Bundles:
    """Publishes handbooks that have no line in common."""

    def __init__(self, folder: Path, lines: int) -> None:
        self.folder, self._lines = folder / "registry", lines
        self.key = PublisherKey.create(folder / "key")
        embedder = {"model": str(demo_embedder_path()), "processes": 0}
        overrides = {"home": str(folder / "publisher"), "embedder": embedder}
        self._system = MemorySystem(load_config(overrides=overrides)).open()

    def publish(self, name: str) -> str:
        """Publish a handbook; returns its text."""
        drawn = random.Random(name)
        lines = [
            f"Rule {i} of {name}: the {drawn.choice(WORDS)} opens at {drawn.randrange(12)} o'clock."
            for i in range(self._lines)
        ]
        text = " ".join(lines)
        meta = NewMeta(name=name, shared=True, placement=Placement.STABLE)
        new = NewCube(meta=meta, payload=ExplicitPayload(content=[Item(text=text)]))
        self._system.create(PUBLISHER, [new])
        about = About(name, "1.0.0", "CC0-1.0")
        publish(self._system, PUBLISHER, FolderRegistry(self.folder), self.key, about, [name])
        return text

    def close(self) -> None:
        self._system.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=7)
    output_arguments(parser)
    arguments = parser.parse_args()
    repeats, lines = (1, QUICK_LINES) if arguments.quick else (arguments.repeats, LINES)
    with started(lines) as (server, bundles), server.http() as http:
        rows = [repetition(http, bundles, f"handbook-{i}") for i in range(repeats)]
    record = Record("arrival", f"--repeats {repeats}", rows=rows)
    record.config = {"lines": lines, "warm_questions": WARM}
    for part in ("first", "cold", "none"):
        ratios = [row[f"{part}_ms"] / row["warm_ms"] for row in rows]
        record.headline[f"{part}_over_warm"] = round(statistics.median(ratios), 3)
    shares = [row["first_cached"] / row["first_prompt"] for row in rows]
    record.headline["first_cached_share"] = round(statistics.median(shares), 3)
    record.headline["build_seconds"] = round(statistics.median(r["build_s"] for r in rows), 2)
    record.finish(quick=arguments.quick, out=arguments.out)


@contextmanager
def started(lines: int) -> Iterator[tuple[Server, Bundles]]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name, ExitStack() as stack:
        folder = Path(name)
        bundles = Bundles(folder, lines)
        stack.callback(bundles.close)
        environment = {"MEMOS__STORE__REGISTRIES": f'{{"bench": "{bundles.folder}"}}'}
        server = Server(folder, home=folder / "home", environment=environment, flags=())
        stack.enter_context(server.running())
        yield server, bundles


def repetition(http: httpx.Client, bundles: Bundles, name: str) -> dict[str, Any]:
    text = bundles.publish(name)
    none = statistics.median(ask(http, "")[0] for _ in range(WARM))
    wanted = {"name": name, "publisher": bundles.key.public.fingerprint}
    http.post(f"{STORE}/bundles", json=wanted).raise_for_status()
    began = time.perf_counter()
    approved = http.post(f"{STORE}/bundles/{name}/approve", json={})
    approved.raise_for_status()
    (cube,) = approved.json()["cubes"].values()
    wait_for(
        lambda: http.get(f"/v1/memory/cubes/{cube}/activation").json()["chains"], "the bundle's KV"
    )
    built = time.perf_counter() - began
    time.sleep(1.0)
    first, usage = ask(http, "")
    warm = statistics.median(ask(http, "")[0] for _ in range(WARM))
    http.delete(f"{STORE}/bundles/{name}").raise_for_status()
    cold, _ = ask(http, text)
    return {
        "bundle": name,
        "first_ms": round(1000 * first, 2),
        "first_prompt": usage["prompt_tokens"],
        "first_cached": usage["prompt_tokens_details"]["cached_tokens"],
        "warm_ms": round(1000 * warm, 2),
        "cold_ms": round(1000 * cold, 2),
        "none_ms": round(1000 * none, 2),
        "build_s": round(built, 2),
    }


def ask(http: httpx.Client, pasted: str) -> tuple[float, dict[str, Any]]:
    """Seconds to the first token of a new question, and its usage.

    Args:
        pasted: the handbook in the client's own system message, without memory; empty: with memory.
    """
    number = next(_questions)
    messages = [
        {
            "role": "user",
            "content": f"Question {number}: when does the {WORDS[number % len(WORDS)]} open?",
        }
    ]
    if pasted:
        messages.insert(0, {"role": "system", "content": pasted})
    body = {
        "model": MODEL,
        "messages": messages,
        "max_tokens": 4,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "user": "someone",
        "memory": {"write": False, "retrieve": False, "enabled": not pasted},
    }
    time.sleep(PAUSE_SECONDS)
    began, first, usage = time.perf_counter(), 0.0, dict[str, Any]()
    with http.stream("POST", "/v1/chat/completions", json=body) as reply:
        reply.raise_for_status()
        for line in reply.iter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line[6:])
            choices = event.get("choices") or []
            if not first and choices and choices[0]["delta"].get("content"):
                first = time.perf_counter() - began
            usage = event.get("usage") or usage
    return first, usage


if __name__ == "__main__":
    main()
