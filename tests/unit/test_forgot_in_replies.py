"""`memory.forgot` in the body of a reply and in the last chunk of a stream; the engine is a stand-in."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

from memos_vllm.engine.chat.handler import ChatExchange
from memos_vllm.engine.gateway import EngineCall
from memos_vllm.learning.background import BackgroundTasks
from memos_vllm.learning.remember import Rememberer
from memos_vllm.options import MemoryOptions
from memos_vllm.pipeline import Pipeline
from memos_vllm.ports import Chat
from tests.conftest import FakeQueue
from tests.unit.conftest import ALICE
from tests.unit.test_pipeline import FakeExchange

ORDER = "Forget that I live in Paris."
CHUNKS = (
    'data: {"id":"r-1","choices":[{"index":0,"delta":{"content":"Done."},"finish_reason":null}]}\n\n',
    'data: {"id":"r-1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
    "data: [DONE]\n\n",
)


class FakeEngine(FakeExchange):
    """Answers with fixed chunks, which the real exchange delivers."""

    def __init__(self, stream: bool, tasks: BackgroundTasks) -> None:
        super().__init__()
        self.stream = stream
        memory: Any = SimpleNamespace(serving=SimpleNamespace(), served=None)
        raw = SimpleNamespace(state=SimpleNamespace(), headers={})
        request = SimpleNamespace(stream_options=None, n=1, request_id="1")
        self.real = ChatExchange(memory, tasks, call=EngineCall(ALICE), request=request, raw=raw)

    async def answer(self, chat, messages):
        if not self.stream:
            message = SimpleNamespace(content="Done.")
            choice = SimpleNamespace(message=message, finish_reason="stop")
            return SimpleNamespace(id="r-1", choices=[choice])

        async def chunks():
            for chunk in CHUNKS:
                yield chunk

        return chunks()

    async def deliver(self, chat, reply, finish):
        return await self.real.deliver(chat, reply, finish)


def answered(system, stream: bool, said: str) -> Any:
    """What the client gets: the reply, or the chunks of its stream."""
    rememberer = Rememberer(system, FakeQueue(system.jobs, system.config.jobs))
    pipeline = Pipeline(system, rememberer, BackgroundTasks())
    chat = Chat(ALICE, MemoryOptions(), [{"role": "user", "content": said}], "demo")

    async def run():
        reply = await pipeline.chat(chat, FakeEngine(stream, pipeline.tasks))
        got = [chunk async for chunk in reply] if stream else reply
        await pipeline.tasks.drain()
        return got

    return asyncio.run(run())


def test_the_body_tells_what_was_forgotten(system, chat):
    chat("I live in Paris.")
    memory = answered(system, False, ORDER).memory
    assert memory["forgot"]["count"] >= 2
    assert memory["forgot"]["undo"].startswith("undo_")
    assert memory["written"] is False
    assert answered(system, False, "Hello there.").memory["forgot"] is None


def test_the_last_chunk_of_a_stream_tells_it_and_no_other(system, chat):
    chat("I live in Paris.")
    chunks = answered(system, True, ORDER)
    told = [chunk for chunk in chunks if '"memory"' in chunk]
    assert told == [chunks[-2]]
    forgot = json.loads(told[0].removeprefix("data: "))["memory"]["forgot"]
    assert forgot["done"]
    assert {each["part"] for each in forgot["items"]} == {"whole"}
    assert "Paris" not in told[0]
