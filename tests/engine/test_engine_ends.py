"""Requests that ended the engine, and processes that survived the end of their server."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import psutil
import pytest

from memos_vllm.lifeline import has_ended
from tests.engine.harness import Server, chat, wait_for

LONG = "Tell me more about the harbour, its ships and its people. " * 30  # over one step's tokens


@pytest.fixture
def small_steps(tmp_path) -> Iterator[Server]:
    """A server whose prompts are computed in steps of 128 tokens."""
    flags = ("--max-num-batched-tokens", "128", "--max-num-seqs", "8")
    with Server(tmp_path, home=tmp_path / "home", flags=flags, forked=False).running() as running:
        yield running


def seeded(server: Server, seed: int) -> str:
    reply = chat(
        server, "none", None, LONG, seed=seed, temperature=1.5, max_tokens=12,
        memory={"enabled": False},
    )  # fmt: skip
    return str(reply.choices[0].message.content)


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if not has_ended(process)]


def test_seeded_prompts_in_steps_are_repeatable_and_a_killed_server_leaves_no_process(
    small_steps: Server,
):
    with small_steps.http() as http:
        # The first computes the prompt in many steps, the second takes most of it from the prefix cache.
        first, second = seeded(small_steps, 1), seeded(small_steps, 1)
        assert first == second
        assert {seeded(small_steps, seed) for seed in (2, 3, 4)} != {first}
        assert http.get("/health").status_code == 200
    assert small_steps._process is not None
    server = psutil.Process(small_steps._process.pid)
    children = server.children(recursive=True)
    assert len(children) >= 2, "engine core and embedder"
    server.send_signal(signal.SIGKILL)
    wait_for(lambda: not alive(children), f"the end of {children}", 10)
