"""Store an answered turn durably, from where a job makes it memory; and tell why one is not stored."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from memos_vllm import metrics
from memos_vllm.config.tree import RememberConfig
from memos_vllm.cube.ids import now_us
from memos_vllm.errors import Unavailable
from memos_vllm.governance.principal import Role, Scope
from memos_vllm.learning.background import BackgroundTasks
from memos_vllm.learning.remember import Rememberer
from memos_vllm.plaintext.reader.forgetting import Orders, read_orders
from memos_vllm.plaintext.reader.turns import has_words, last_said, mark_of, turn_body
from memos_vllm.ports import Chat

log = logging.getLogger(__name__)
_FIRST_RETRY_SECONDS, _LAST_RETRY_SECONDS = 1.0, 30.0
_WAITING_TURNS = 10_000


def not_written(chat: Chat, config: RememberConfig) -> str | None:
    """The reason why the turn of a request does not become memory; None: it does."""
    if not chat.store or chat.options.write is False:
        return "the request says so (`store`, `memory.write`)"
    if not chat.principal.person:
        return "the request names no person"
    if not chat.principal.has_scope(Scope.WRITE):
        return f"the token or key lacks the scope `{Scope.WRITE}`"
    if not chat.principal.can(Role.WRITER):
        return "the key has the role `reader`"
    if not chat.principal.has_scope(Scope.DELETE) and read_orders(last_said(chat.messages)):
        return f"it orders to forget, and the token or key lacks the scope `{Scope.DELETE}`"
    if not config.enabled:
        return "`remember.enabled` is off"
    return None if has_words(chat.messages) else "no user message has text or an image"


def orders_of(chat: Chat) -> Orders | None:
    """Orders to forget in the newest message, where the turn may be written; None: there are none."""
    return read_orders(last_said(chat.messages)) if chat.plan.written else None


class TurnSaver:
    def __init__(
        self, rememberer: Rememberer, tasks: BackgroundTasks, config: RememberConfig
    ) -> None:
        self._rememberer, self._tasks, self._config = rememberer, tasks, config

    def now(self, chat: Chat) -> datetime:
        """The time of day of the person."""
        return self._rememberer.now(chat.options.timezone)

    async def forget(self, chat: Chat, found: Orders) -> None:
        """Carry out orders to forget; where memory does not answer, the turn's job does it."""
        chat.plan.forgot = await self._rememberer.ordered(chat.principal, found.orders)
        if chat.plan.forgot is not None and not found.rest:
            chat.plan.written = False
            chat.plan.not_written = "it only orders to forget"

    async def save(
        self, chat: Chat, request_id: str, reply: str, finish_reason: str | None
    ) -> None:
        """Store the turn, its reply marked where it is no evidence; wait for `durable_wait_seconds`.

        Args:
            reply: empty where there is none: the person's words are stored alone.
        """
        body = turn_body(
            chat.messages,
            reply,
            model=chat.model_name,
            request_id=request_id,
            at_us=now_us(),
            mark=mark_of(finish_reason, bool(chat.plan.degraded), _has_no_memory(chat)),
        )
        if body is not None:
            done = chat.plan.forgot is not None
            body, chat.plan.redacted = self._rememberer.prepared(
                chat.principal.tenant, body, chat.options.timezone, done
            )
            saving = self._tasks.spawn(self._store(chat, body))
            await asyncio.wait({saving}, timeout=self._config.durable_wait_seconds)

    async def _store(self, chat: Chat, body: Mapping[str, Any]) -> None:
        """Retry while the vault is locked or unreachable, so that no turn is lost."""
        pause = _FIRST_RETRY_SECONDS
        while True:
            try:
                await asyncio.to_thread(self._rememberer.accept, chat.principal, body)
                return
            except Unavailable as error:
                metrics.DEGRADED.labels("remember").inc()
                if len(self._tasks) > _WAITING_TURNS:
                    log.error("a turn is lost: too many wait for the vault: %s", error)
                    return
                log.warning("storing a turn failed, retrying in %.0f s: %s", pause, error)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LAST_RETRY_SECONDS)


def _has_no_memory(chat: Chat) -> bool:
    """Whether the reply was given without the memory that there may be."""
    options = chat.options
    wants_none = not options.retrieve or 0 in (options.top_k, options.budget_tokens)
    return chat.without_memory or (wants_none and chat.draft is None)
