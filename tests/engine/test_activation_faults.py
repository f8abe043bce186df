"""Faults of persistent KV: interrupted saves, damaged files, an unusable disk, deleted cubes."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from memos_vllm.activation import files
from memos_vllm.activation.direct_io import Scratch
from memos_vllm.activation.erase import SUFFIX
from tests.engine.harness import MODEL, Server, cached_tokens, wait_for
from tests.engine.kv import (
    BLOCK,
    RULES,
    ask,
    chains,
    explain,
    from_disk,
    in_ram,
    make,
    metric,
    same,
    segments,
)


def by_source(server: Server) -> dict[str, float]:
    """vLLM's count of cached tokens by source."""
    with server.http() as http:
        lines = http.get("/metrics").text.splitlines()
    found = [
        line for line in lines if line.startswith("vllm:prompt_tokens_cached_by_source_total{")
    ]
    return {
        line.partition('source="')[2].partition('"')[0]: float(line.rsplit(" ", 1)[1])
        for line in found
    }


def test_saved_prefill_is_counted(restartable):
    def shown() -> dict[str, Any]:
        with restartable.http() as http:
            return http.get("/v1/memory/activation").json()

    def use() -> dict[str, Any]:
        return shown()["use"]

    cube = make(restartable, "spared", "Spared. " + " ".join(RULES))
    ask(restartable, "kv-u1", cube)
    wait_for(lambda: chains(restartable, "none", cube), "its KV")
    before, sources = use(), by_source(restartable)
    reply = ask(restartable, "kv-u2", cube)
    loaded = cached_tokens(reply)
    assert {each["source"] for each in reply.memory["cached"]} <= {"memory", "disk"}
    assert sum(each["tokens"] for each in reply.memory["cached"]) == loaded
    after = wait_for(lambda: (u := use())["hits"] > before["hits"] and u, "the count")
    tokens = [u["loaded_tokens_ram"] + u["loaded_tokens_disk"] for u in (before, after)]
    assert tokens[1] - tokens[0] == loaded > 300
    grown = {name: amount - sources[name] for name, amount in by_source(restartable).items()}
    assert grown["host"] + grown["disk"] == loaded
    assert grown["external_unspecified"] == 0
    speed = after["tokens_per_second"]
    assert speed["ram"] > speed["prefill"] > 0
    assert speed["disk"] > 0
    assert after["saved_prefill_seconds"] > before["saved_prefill_seconds"]
    assert all(tier["bytes"] > 0 for tier in shown()["tiers"])


def test_loaded_kv_gives_the_same_log_probabilities_as_the_prefix_cache(restartable):
    """Equal to the last bit, when loaded and computed tokens are split at the same block."""
    text = " ".join(RULES[:20])
    cube = make(restartable, "exact", text)
    end = explain(restartable, ask(restartable, "x0", cube), "x0")["kv"]["segments"][-1]["end"]
    text += " a" * (-end % BLOCK)
    with restartable.http() as http:
        patch = {"payload": {"type": "explicit", "format": "text", "content": text}}
        assert http.patch(f"/v1/memory/cubes/{cube}", json=patch).status_code == 200
    options = {"logprobs": True, "top_logprobs": 5, "max_tokens": 16}
    first = ask(restartable, "x1", cube, **options)
    assert explain(restartable, first, "x1")["kv"]["segments"][-1]["end"] % BLOCK == 0
    warm = ask(restartable, "x1", cube, **options)
    strangers = (f"x2-{number}" for number in itertools.count())  # who computed nothing themselves

    def loads() -> Any:
        reply = ask(restartable, next(strangers), cube, **options)
        return reply if cached_tokens(reply) else None

    loaded = wait_for(loads, "a load")
    assert cached_tokens(loaded) == cached_tokens(warm) > 300

    def equal() -> bool:
        one, other = loads(), ask(restartable, "x1", cube, **options)
        return one.choices[0].logprobs == other.choices[0].logprobs

    # Other work in the engine's step, as on a busy machine, changes the shape of its batch, and the bits.
    wait_for(equal, "a load that equals the prefix cache to the last bit", 60)


def test_a_kill_in_the_middle_of_a_save_leaves_no_partial_segment(restartable):
    """A partly written file never becomes a segment."""
    kept_before = {path.name for path in segments(restartable)}
    caught: list[Path] = []
    for attempt in range(5):
        cube = make(restartable, f"half-{attempt}", f"Half {attempt}. " + " ".join(RULES))
        before = len(segments(restartable))
        written = threading.Event()
        watcher = threading.Thread(target=_kill_when_writing, args=(restartable, written, caught))
        watcher.start()
        with contextlib.suppress(Exception):  # the connection breaks with the server
            ask(restartable, "z1", cube)
            wait_for(
                lambda known=before: caught or len(segments(restartable)) > known, "a save", 60
            )
        written.set()
        watcher.join()
        if caught:
            break
    assert caught, "no save was seen while it was written"
    restartable.kill(signal.SIGKILL)
    restartable.start()
    names = {path.name for path in segments(restartable)}
    assert not any(not name.endswith(SUFFIX) for name in names)
    for path in segments(restartable):
        if path.name not in kept_before:
            files.check(path)  # complete, with its checksum
    replies = [ask(restartable, who, cube) for who in ("z1", "z2")]
    assert same(*replies)


def _kill_when_writing(server: Server, written: threading.Event, caught: list[Path]) -> None:
    """Kill the server when it has a temporary file, unless the save ends first."""
    folder = server.home / "kv" / "segments"
    while not written.is_set():
        found = [
            Path(entry.path)
            for parent, _, _ in os.walk(folder)
            for entry in os.scandir(parent)
            if entry.name.endswith(".tmp")
        ]
        if found:
            os.killpg(server._process.pid, signal.SIGKILL)
            caught.extend(found)
            break
        time.sleep(0.0005)


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _flip_a_bit(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 4]))


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _rewrite(path: Path, change: Any = lambda layer: layer, layers: int = 99, **meta: str) -> None:
    """Write the segment with a change, and with checksums that fit the change."""
    with files.SegmentReader(path) as reader:
        made = [change(layer).clone() for layer in reader.layers(Scratch())][:layers]
    shape = dataclasses.replace(reader.shape, layers=len(made), dtype=made[0].dtype)
    files.write(path, shape, made, {**reader.metadata, **meta})


def _another_dtype(path: Path) -> None:
    other = {torch.float32: torch.bfloat16}
    _rewrite(path, lambda layer: layer.to(other.get(layer.dtype, torch.float32)))


def _another_model(path: Path) -> None:
    _rewrite(path, layers=10)


def _another_text(path: Path) -> None:
    _rewrite(path, lambda layer: layer.flip(0), digest="0" * 40)


def _another_segment(path: Path) -> None:
    _rewrite(path, lambda layer: layer.flip(0), key="0" * 40)


@contextlib.contextmanager
def beside_another_request(server: Server) -> Iterator[None]:
    """A long reply of another person runs meanwhile."""
    with server.client().chat.completions.create(
        model=MODEL,
        user="neighbour",
        messages=[{"role": "user", "content": "Count to a thousand."}],
        max_tokens=600,
        stream=True,
        extra_body={"ignore_eos": True, "memory": {"enabled": False}},
    ) as stream:
        next(iter(stream))
        yield


DAMAGES = [
    _truncate,
    _flip_a_bit,
    _empty,
    _another_dtype,
    _another_model,
    _another_text,
    _another_segment,
]


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_a_recompute_and_never_a_wrong_token(restartable, damage, alone):
    """A request alone loads a segment within its step; beside another request, between steps."""
    name = f"{damage.__name__}-{alone}".strip("_")
    cube = make(restartable, name, f"{name}. " + " ".join(RULES[:20]))
    before = len(segments(restartable))
    right = ask(restartable, f"{name}-1", cube)
    wait_for(lambda: len(segments(restartable)) >= before + 1, "a segment")
    path = max(
        segments(restartable), key=lambda path: (path.stat().st_mtime_ns, path.stat().st_size)
    )
    wait_for(
        lambda: any(other.name == path.name for other in in_ram(restartable)), "its copy in memory"
    )
    from_disk(restartable)
    failures = metric(restartable, "memos_kv_load_failures_total")
    damage(path)
    with contextlib.nullcontext() if alone else beside_another_request(restartable):
        reply = ask(restartable, f"{name}-2", cube)
    assert same(reply, right)
    wait_for(
        lambda: metric(restartable, "memos_kv_load_failures_total") == failures + 1, "the metric"
    )
    healed = wait_for(
        lambda: (
            (r := ask(restartable, f"{name}-{time.monotonic()}", cube))
            and cached_tokens(r) > 300
            and r
        ),
        "a new file",
    )
    assert same(healed, right)


def test_a_failed_save_counts_in_a_metric_and_fails_no_request(restartable):
    folder = restartable.home / "kv" / "segments"
    aside = folder.with_name("aside")
    folder.rename(aside)
    folder.write_text("not a folder")
    try:
        failures = metric(restartable, "memos_kv_save_failures_total")
        cube = make(restartable, "full", "Full. " + " ".join(RULES[:10]))
        reply = ask(restartable, "full-1", cube)
        assert same(ask(restartable, "full-2", cube), reply)
        wait_for(
            lambda: metric(restartable, "memos_kv_save_failures_total") > failures, "the metric"
        )
    finally:
        folder.unlink()
        aside.rename(folder)


def holding(server: Server, cube: str) -> list[Path]:
    """Segments whose prefix contains a cube."""
    found = []
    for path in segments(server):
        with files.SegmentReader(path) as reader:
            if f"{cube}@" in reader.metadata["cubes"]:
                found.append(path)
    return found


@pytest.mark.parametrize("change", ["delete", "update"])
def test_a_deleted_cube_leaves_no_byte_of_kv(restartable, change):
    """On no tier: neither in its own segments nor in later segments of its chains."""
    cube = make(restartable, f"doomed-{change}", f"Doomed by {change}. " + " ".join(RULES[:20]))
    other = make(restartable, f"behind-{change}", f"Behind {change}. " + " ".join(RULES[20:30]))
    ask(restartable, "q1", cube, memory={"cubes": [cube, other]})
    made = wait_for(
        lambda: len(found := holding(restartable, cube)) == 2 and found, "both segments"
    )
    wait_for(
        lambda: {path.name for path in made} <= {path.name for path in in_ram(restartable)},
        "copies",
    )
    samples = [path.read_bytes()[-4096:-2048] for path in made]
    assert all(any(sample) for sample in samples)
    with restartable.http() as http:
        if change == "delete":
            assert http.delete(f"/v1/memory/cubes/{cube}").status_code == 200
        else:
            patch = {"payload": {"type": "explicit", "format": "text", "content": "Short now."}}
            assert http.patch(f"/v1/memory/cubes/{cube}", json=patch).status_code == 200
    files_left = [
        *segments(restartable),
        *in_ram(restartable),
        *(restartable.home / "kv").rglob("*.tmp"),
    ]
    for file in files_left:
        content = file.read_bytes()
        assert not any(sample in content for sample in samples), file
