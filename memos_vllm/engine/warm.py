"""A chat that the server answers itself at its start, so that the first client does not pay for it.

The first search, the first prompt and the first step of an engine load libraries, fill caches and choose
kernels.  `GET /ready` says yes when a chat has gone through every part: the embedder, a search, the prompt,
KV orders, the engine and the stream.  It belongs to a tenant of its own, without memory, and is not remembered.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any

from starlette.requests import Request

from memos_vllm.api.ready import Readiness
from memos_vllm.cube.ids import PersonId, TenantId
from memos_vllm.errors import Unavailable
from memos_vllm.governance.current import PRINCIPAL
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.system import MemorySystem
from memos_vllm.vault.items import Owner
from memos_vllm.vault.owners import OwnerState

log = logging.getLogger(__name__)
QUESTION = "Which of my plans for the summer did I tell you about, and with whom?"
_TENANT, _PERSON = TenantId("memos-start"), PersonId("memos-start")
_PRINCIPAL = Principal(_TENANT, Role.WRITER, "start", _PERSON)
_REPLY_TOKENS = 4
_AGAIN_SECONDS = 5.0


class StartTimes:
    """Seconds that each part of a start took."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - began

    def __str__(self) -> str:
        parts = [f"{name} {seconds:.1f} s" for name, seconds in self._seconds.items()]
        return ", ".join([f"{sum(self._seconds.values()):.1f} s in all", *parts])


class WarmUp:
    def __init__(self, system: MemorySystem, serving: Any, model: str, ready: Readiness) -> None:
        """
        Args:
            serving: vLLM's chat handler, with memory in front of it; None: the server has none.
            model: name of the served model.
        """
        self._system, self._serving, self._model, self._ready = system, serving, model, ready

    async def run(self) -> None:
        """Answer a chat; again after a while, until one is answered."""
        self._ready.waits_for = "its first chat"
        while True:
            began = time.perf_counter()
            try:
                await self._search()
                if self._serving is not None:
                    await self._chat()
            # A part that fails here fails for the first client, too; whatever it raises is reported.
            except Exception:
                log.exception("the server's own first chat fails, so it is not ready")
                await asyncio.sleep(_AGAIN_SECONDS)
                continue
            self._ready.waits_for = None
            log.info("ready; the first chat took %.1f s", time.perf_counter() - began)
            return

    async def _search(self) -> None:
        """Search a memory that has nothing; a part that does not answer is left out, as in a chat."""
        system, nothing = self._system, [OwnerState(Owner(_TENANT, _PERSON), revision=0, items=0)]
        try:
            vector = await system.embed_question(_PRINCIPAL, QUESTION, nothing)
            search = system.operator.search
            await asyncio.to_thread(search, _PRINCIPAL, QUESTION, vector, top_k=1, owners=nothing)
        except Unavailable as error:
            log.warning("memory is not whole at the start: %s", error)

    async def _chat(self) -> None:
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": QUESTION}],
            "max_tokens": _REPLY_TOKENS,
            "temperature": 0,
            "stream": True,
            "user": _PERSON,
            "memory": {"write": False},
        }
        request = ChatCompletionRequest.model_validate(body)
        scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": []}
        token = PRINCIPAL.set(_PRINCIPAL)
        try:
            reply = await self._serving.create_chat_completion(request, Request(scope))
            if not hasattr(reply, "__aiter__"):
                error = getattr(reply, "error", reply)
                if getattr(error, "code", 500) >= 500:
                    raise Unavailable(f"the first chat is answered with {error}")
                # No chat template, most likely: there is no chat that could be answered.
                log.warning("the server answers no chat: %s", error)
                return
            async for chunk in reply:
                if chunk.startswith('data: {"error"'):
                    raise Unavailable(f"the first chat ends with {chunk.strip()}")
        finally:
            PRINCIPAL.reset(token)
