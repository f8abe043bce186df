"""`/v1/chat/completions/batch`: several conversations of one person in one request.

Each goes through the pipeline for itself; they wait for one another before vLLM's handler is called once
with all of them. KV is computed as without activation memory, and an adapter attached if `model` names it.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Any

from memos_vllm.engine.chat.door import Door
from memos_vllm.engine.chat.handler import is_cancelled, summary
from memos_vllm.engine.gateway import CALL, EngineCall
from memos_vllm.governance.principal import Principal
from memos_vllm.options import MemoryOptions
from memos_vllm.ports import Chat, Finish, Messages
from memos_vllm.scheduler.plan import MemoryPlan
from memos_vllm.scheduler.scheduler import Tokenizer

_AT_ONCE = 8
"""Conversations for which memory is read at a time."""


class BatchMemory(Door):
    method = "create_batch_chat_completion"

    async def remembering(
        self, request: Any, raw: Any, body: Any, options: MemoryOptions, call: EngineCall
    ) -> Any:
        adapter = options.adapter or False  # one request has one adapter
        options = options.model_copy(update={"kv": "none", "adapter": adapter})
        batch = Batch(self, request, raw, call)
        chats = [
            self._chat(messages, request, body, call.principal, options)
            for messages in request.messages
        ]
        raw.state.memos_plan = Plans([chat.plan for chat in chats])
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(batch.serve(index, chat)) for index, chat in enumerate(chats)
                ]
        except BaseExceptionGroup as problems:
            raise problems.exceptions[0] from None
        reply = tasks[0].result()
        if hasattr(reply, "choices"):
            reply.memory = [summary(chat.plan) for chat in chats]
        return reply

    def _chat(
        self,
        messages: Sequence[Any],
        request: Any,
        body: Any,
        principal: Principal,
        options: MemoryOptions,
    ) -> Chat:
        return Chat(
            principal=principal,
            options=options,
            messages=messages,
            model_name=request.model or self.renderer.model_name,
            max_reply=request.max_completion_tokens or request.max_tokens,
            prompt_limit=getattr(request, "truncate_prompt_tokens", None),
            store=getattr(body, "store", None) is not False,
        )


@dataclasses.dataclass
class Plans:
    """The plans of a batch, for the headers of its reply."""

    plans: Sequence[MemoryPlan]

    @property
    def degraded(self) -> list[str]:
        return list(dict.fromkeys(reason for plan in self.plans for reason in plan.degraded))

    def used_cubes(self) -> list[str]:
        return list(dict.fromkeys(cube for plan in self.plans for cube in plan.used_cubes()))


class Batch:
    """The conversations of one request, until each has its memory."""

    def __init__(self, door: BatchMemory, request: Any, raw: Any, call: EngineCall) -> None:
        self.door, self.request, self.raw, self.call = door, request, raw, call
        self._messages: list[Any] = list(request.messages)
        self._waiting = len(self._messages)
        self._reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._recorded: list[asyncio.Future[None]] = []

    async def serve(self, index: int, chat: Chat) -> Any:
        await self._slots.acquire()
        CALL.set(EngineCall(self.call.principal))  # of this task, for rendering
        exchange = BatchExchange(self, index)
        try:
            return await self.door.parts.pipeline.chat(chat, exchange)
        finally:
            exchange.release()

    def release(self) -> None:
        self._slots.release()

    async def answer(self, index: int, chat: Chat, messages: Messages | None) -> Any:
        """vLLM's reply to all of them, once the last one is there."""
        if messages is not None:
            self._messages[index] = messages
        if chat.adapter is not None:
            self.call.adapter = chat.adapter
        if chat.recorded is not None:
            self._recorded.append(chat.recorded)
        self._waiting -= 1
        if self._waiting:
            return await asyncio.shield(self._reply)
        if self._recorded:
            self.call.recorded = asyncio.ensure_future(_all_of(self._recorded))
        CALL.set(self.call)
        request = self.request.model_copy(update={"messages": self._messages})
        try:
            self._reply.set_result(await self.door.answer(request, self.raw))
        except asyncio.CancelledError:
            self._reply.cancel()
            raise
        except Exception as error:  # each conversation of the batch ends with it
            self._reply.set_exception(error)
            self._reply.exception()
            raise
        return self._reply.result()


async def _all_of(recorded: Sequence[asyncio.Future[None]]) -> None:
    await asyncio.gather(*recorded)


class BatchExchange:
    """One conversation of a batch. Implements `ports.Exchange`."""

    def __init__(self, batch: Batch, index: int) -> None:
        self._batch, self._index, self._reads = batch, index, True

    @property
    def tokenizer(self) -> Tokenizer:
        return self._batch.door.renderer.tokenizer

    def tokenizer_for(self, chat: Chat) -> Tokenizer:
        return self.tokenizer

    @property
    def request_id(self) -> str:
        batch = self._batch  # as vLLM's handler names it, with the place of the conversation
        name = batch.raw.headers.get("X-Request-Id", batch.request.request_id)
        return f"chatcmpl-{name}-{self._index}"

    def release(self) -> None:
        """Let the next conversation read memory."""
        if self._reads:
            self._reads = False
            self._batch.release()

    async def prompt_tokens(self, messages: Messages) -> int | None:
        given: Any = messages
        request = self._batch.request.to_chat_completion_request(given)
        prompts = await self._batch.door.renderer.prompts_of(request)
        if prompts is None:
            return None
        return sum(len(prompt.get("prompt_token_ids") or ()) for prompt in prompts)

    async def order_kv(self, chat: Chat, messages: Messages | None) -> None:
        """The engine's own prefix cache serves a batch."""

    async def answer(self, chat: Chat, messages: Messages | None) -> Any:
        self.release()
        return await self._batch.answer(self._index, chat, messages)

    async def deliver(self, chat: Chat, reply: Any, finish: Finish) -> Any:
        choices = getattr(reply, "choices", None)
        if choices is None:  # vLLM's ErrorResponse
            text, reason = ("", "abort") if is_cancelled() else (None, None)
            await finish(self.request_id, text, reason)
            return reply
        choice = choices[self._index]
        await finish(
            f"{reply.id}-{self._index}", choice.message.content or "", choice.finish_reason
        )
        return reply
