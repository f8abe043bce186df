"""Rendering of a request: once, whether memory, KV orders or vLLM's handler asks first."""

from __future__ import annotations

import asyncio
import types

import pytest

pytest.importorskip("vllm")

from memos_vllm.engine import gateway
from memos_vllm.engine.chat.renderer import PromptRenderer
from tests.conftest import principal


class FakeServing:
    """A chat handler that counts renderings; it refuses an empty prompt."""

    def __init__(self) -> None:
        self.rendered: list[object] = []

    async def render_chat_request(self, request):
        self.rendered.append(request)
        if not request.tokens:
            raise ValueError("an empty prompt")
        return ["conversation"], [{"prompt": "text", "prompt_token_ids": request.tokens}]


def request(*tokens: int):
    return types.SimpleNamespace(tokens=list(tokens), cache_salt=None)


async def in_call(work):
    gateway.CALL.set(gateway.EngineCall(principal()))
    return await work


def test_a_request_is_rendered_once_for_memory_kv_and_the_handler():
    serving = FakeServing()
    renderer = PromptRenderer(serving, "demo")
    asked = request(1, 2, 3)

    async def work():
        first = await renderer.prompts_of(asked)
        again = await renderer.prompts_of(asked)
        _, handler = await renderer.render(asked)
        return first, again, handler

    first, again, handler = asyncio.run(in_call(work()))
    assert first is again is handler
    assert serving.rendered == [asked]


def test_the_rendering_of_another_request_is_never_used():
    serving = FakeServing()
    renderer = PromptRenderer(serving, "demo")
    with_memory, without = request(1, 2, 3), request(1)

    async def work():
        await renderer.prompts_of(with_memory)
        return await renderer.render(without)

    _, prompts = asyncio.run(in_call(work()))
    assert prompts[0]["prompt_token_ids"] == [1]
    assert serving.rendered == [with_memory, without]


def test_a_request_that_is_refused_is_refused_again_in_the_handler():
    renderer = PromptRenderer(FakeServing(), "demo")

    async def work():
        assert await renderer.prompts_of(request()) is None
        await renderer.render(request())

    with pytest.raises(ValueError, match="an empty prompt"):
        asyncio.run(in_call(work()))


def test_requests_at_once_have_calls_of_their_own():
    serving = FakeServing()
    renderer = PromptRenderer(serving, "demo")

    async def one(tokens):
        gateway.CALL.set(gateway.EngineCall(principal()))
        asked = request(*tokens)
        await renderer.prompts_of(asked)
        await asyncio.sleep(0.01)
        _, prompts = await renderer.render(asked)
        return prompts[0]["prompt_token_ids"]

    async def both():
        return await asyncio.gather(*(one([number]) for number in range(1, 9)))

    assert asyncio.run(both()) == [[number] for number in range(1, 9)]
    assert len(serving.rendered) == 8
