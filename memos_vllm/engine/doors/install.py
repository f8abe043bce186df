"""Every door of a server, installed into vLLM's handlers."""

from __future__ import annotations

import logging
from typing import Any

from memos_vllm.engine.chat.door import Door, Parts
from memos_vllm.engine.chat.handler import ChatMemory
from memos_vllm.engine.chat.renderer import PromptRenderer
from memos_vllm.engine.doors.batch import BatchMemory
from memos_vllm.engine.doors.completions import CompletionsMemory, CompletionsRenderer
from memos_vllm.engine.doors.messages import MessagesMemory
from memos_vllm.engine.doors.responses import ResponsesMemory, ResponsesRenderer
from memos_vllm.vault.responses import ResponseStore

log = logging.getLogger(__name__)


def install(
    state: Any, chat: PromptRenderer, parts: Parts, responses: ResponseStore | None
) -> None:
    """Put memory in front of every handler that the server has. Idempotent.

    Args:
        state: vLLM's `app.state`.
        chat: renderer of its chat handler.
        responses: keeps replies of `/v1/responses`; None: they are not kept.
    """
    ChatMemory(state.openai_serving_chat, chat, parts).install()
    for door in _others(state, chat, parts, responses):
        door.install()


def _others(
    state: Any, chat: PromptRenderer, parts: Parts, responses: ResponseStore | None
) -> list[Door]:
    doors: list[Door] = []
    if (serving := getattr(state, "anthropic_serving_messages", None)) is not None:
        doors.append(MessagesMemory(serving, PromptRenderer(serving, chat.model_name), parts))
    if (serving := getattr(state, "openai_serving_completion", None)) is not None:
        doors.append(
            CompletionsMemory(serving, CompletionsRenderer(serving, chat.model_name), parts)
        )
    if (serving := getattr(state, "openai_serving_chat_batch", None)) is not None:
        doors.append(BatchMemory(serving, chat, parts))
    serving = getattr(state, "openai_serving_responses", None)
    if serving is not None and not hasattr(serving, ResponsesRenderer.method):
        log.warning("this version of vLLM renders /v1/responses in another way: no memory there")
    elif serving is not None:
        renderer = ResponsesRenderer(serving, chat.model_name)
        doors.append(ResponsesMemory(serving, renderer, parts, responses))
    return doors
