"""`GET /ready` without an engine, and the times of a start."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from memos_vllm.api.app import create_app
from memos_vllm.api.ready import Readiness
from memos_vllm.engine import plugin, warm
from memos_vllm.engine.warm import StartTimes, WarmUp
from memos_vllm.errors import ConfigError
from memos_vllm.governance.principal import Role


def test_a_server_is_not_ready_before_its_first_chat_and_says_so_without_a_key(system):
    system.keys.create("acme", Role.WRITER)
    app = create_app(system)
    client = TestClient(app)
    first = client.get("/ready")
    assert (first.status_code, first.json()) == (503, {"ready": False, "waits_for": "the engine"})
    app.state.memos_ready.waits_for = None
    then = client.get("/ready")
    assert (then.status_code, then.json()) == (200, {"ready": True, "waits_for": None})
    assert client.post("/ready").status_code == 401


def test_the_times_of_a_start_are_told_by_part():
    times = StartTimes()
    for _ in range(2):
        with times.part("vault"):
            pass
    assert str(times) == "0.0 s in all, vault 0.0 s"


class Handler:
    """A fake of vLLM's chat handler whose engine fails first: no real one does so on demand."""

    def __init__(self, *replies: Any) -> None:
        self._replies = list(replies)
        self.states: list[str | None] = []
        self.ready = Readiness()

    async def create_chat_completion(self, request: Any, raw: Any) -> Any:
        self.states.append(self.ready.waits_for)
        reply = self._replies.pop(0)
        return streamed(reply) if isinstance(reply, str) else reply


async def streamed(chunk: str) -> AsyncIterator[str]:
    yield chunk


def test_a_first_chat_that_fails_in_any_way_is_tried_again_before_the_server_is_ready(
    system, monkeypatch
):
    monkeypatch.setattr(warm, "_AGAIN_SECONDS", 0.01)
    handler = Handler(
        'data: {"error": {"message": "the engine is dead", "code": 500}}\n\n',
        SimpleNamespace(error=SimpleNamespace(code=503, message="no memory")),
        "data: {}\n\n",
    )
    asyncio.run(WarmUp(system, handler, "m", handler.ready).run())
    assert handler.states == ["its first chat"] * 3
    assert handler.ready.waits_for is None


def test_a_server_without_a_chat_template_is_ready(system):
    handler = Handler(SimpleNamespace(error=SimpleNamespace(code=400, message="no template")))
    asyncio.run(WarmUp(system, handler, "m", handler.ready).run())
    assert handler.ready.waits_for is None


def test_vllms_own_command_refuses_adapters_under_several_api_servers_too(system):
    args = SimpleNamespace(host="127.0.0.1", api_server_count=2, enable_lora=True)
    with pytest.raises(ConfigError, match="enable-lora"):
        plugin._check(system, args, ())
