"""`/v1/messages`: Anthropic's protocol.

vLLM's handler is a chat handler that translates: it makes a chat request of the body, answers that with
its own `create_chat_completion`, where memory stands, and translates the reply. What its translation
drops, the fields of memory in the body and `memory` in the reply, goes past it here.
"""

from __future__ import annotations

import functools
import json
import types
from collections.abc import AsyncGenerator
from http import HTTPStatus
from typing import Any

from memos_vllm.engine.chat.handler import ChatExchange, ChatMemory
from memos_vllm.engine.gateway import EngineCall
from memos_vllm.errors import MemosError, anthropic_type
from memos_vllm.ports import Chat

FIELDS = ("memory", "safety_identifier", "user", "metadata", "session_id", "prompt_cache_key")
_LAST_EVENTS = ("event: message_delta\n", "event: message_stop\n")


class MessagesMemory(ChatMemory):
    """Memory in the chat that vLLM makes of a message."""

    def install(self) -> None:
        translated = self.serving.create_messages
        super().install()
        self.serving.create_messages = functools.partial(self._create_messages, translated)

    async def body_of(self, request: Any, raw: Any) -> Any:
        # vLLM's model of the body ignores what it does not declare; the parsed body is at hand.
        body = await raw.json()
        return types.SimpleNamespace(
            **{name: body.get(name) for name in FIELDS}, store=body.get("store")
        )

    def exchange(self, request: Any, raw: Any, call: EngineCall) -> ChatExchange:
        return MessagesExchange(
            self, self.parts.pipeline.tasks, call=call, request=request, raw=raw
        )

    async def _create_messages(self, translated: Any, request: Any, raw: Any = None) -> Any:
        try:
            reply = await translated(request, raw)
        except MemosError as error:  # vLLM's route would answer it with a 500
            return self.serving.create_error_response(
                message=error.message,
                err_type=anthropic_type(error.status),
                status_code=HTTPStatus(error.status),
                param=error.param,
            )
        if raw is None:
            return reply
        if hasattr(reply, "__aiter__"):
            return _with_memory_events(reply, raw.state)
        memory = getattr(raw.state, "memos_summary", None)
        if memory is None or not hasattr(reply, "content"):
            return reply
        kind: Any = type(reply)
        parts = {name: getattr(reply, name) for name in kind.model_fields}
        return with_memory(kind).model_construct(**parts, memory=memory)


class MessagesExchange(ChatExchange):
    def told(self, chat: Chat) -> dict[str, Any]:
        self.raw.state.memos_summary = super().told(chat)
        told: dict[str, Any] = self.raw.state.memos_summary
        return told


@functools.cache
def with_memory(reply: Any) -> Any:
    """vLLM's model of a reply with the field `memory`."""
    from pydantic import create_model

    return create_model("MessageWithMemory", __base__=reply, memory=(dict[str, Any], ...))


async def _with_memory_events(
    events: AsyncGenerator[str, None], state: Any
) -> AsyncGenerator[str, None]:
    """The same events, with `memory` in `message_delta`, which clients pass on, and in the last one."""
    try:
        async for event in events:
            memory = getattr(state, "memos_summary", None)
            if memory is None or not event.startswith(_LAST_EVENTS):
                yield event
                continue
            name, _, data = event.partition("\ndata: ")
            tree = {**json.loads(data), "memory": memory}
            yield f"{name}\ndata: {json.dumps(tree, separators=(',', ':'))}\n\n"
    finally:
        await events.aclose()
