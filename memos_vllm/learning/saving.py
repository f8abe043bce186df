"""Store an answered turn durably, from where a job makes it memory; and tell why one is not stored."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from memos_vllm import metrics
from memos_vllm.config.policies import TenantPolicy
from memos_vllm.config.tree import RememberConfig
from memos_vllm.cube.ids import new_id, now_us
from memos_vllm.errors import Erased, Unavailable
from memos_vllm.governance.principal import Role, Scope
from memos_vllm.learning.background import BackgroundTasks
from memos_vllm.learning.remember import Rememberer
from memos_vllm.plaintext.reader.forgetting import Orders, read_orders
from memos_vllm.plaintext.reader.turns import has_words, last_said, mark_of, turn_body
from memos_vllm.ports import Chat

log = logging.getLogger(__name__)
_FIRST_RETRY_SECONDS, _LAST_RETRY_SECONDS = 1.0, 30.0
_WAITING_TURNS = 10_000
_LATE = "the vault does not answer yet: the turn is stored when it does, if the server still runs"


def not_written(
    chat: Chat, config: RememberConfig, policy: TenantPolicy | None = None
) -> str | None:
    """The reason why the turn of a request does not become memory; None: it does.

    Args:
        policy: of the tenant; None: it allows all.
    """
    if policy is not None and not policy.allows("plaintext"):
        return "the tenant's policy (`kinds`) allows no plaintext memory"
    if not chat.has_speaker and chat.options.write is None:
        return "a completion has no speaker: it is remembered with `memory.write: true` alone"
    if not chat.store or chat.options.write is False:
        return "the request says so (`store`, `memory.write`)"
    if not chat.principal.person:
        return (
            "the request names no person: send `safety_identifier` or `user`, or a header of "
            "`governance.person_headers` (X-Memos-User)"
        )
    if not chat.principal.has_scope(Scope.WRITE):
        return f"the token or key lacks the scope `{Scope.WRITE}`"
    if not chat.principal.can(Role.WRITER):
        return "the key has the role `reader`"
    if not chat.principal.has_scope(Scope.DELETE) and read_orders(last_said(chat.messages)):
        return f"it orders to forget, and the token or key lacks the scope `{Scope.DELETE}`"
    if not config.enabled:
        return "`remember.enabled` is off"
    is_asked = chat.options.write or read_orders(last_said(chat.messages))
    if chat.options.as_of is not None and not is_asked:
        return "the request reads a past moment (`memory.as_of`), and does not say `memory.write`"
    return None if has_words(chat.messages) else "no user message has text or an image"


def orders_of(chat: Chat) -> Orders | None:
    """Orders to forget in the newest message, where the turn may be written; None: there are none."""
    return read_orders(last_said(chat.messages)) if chat.plan.written else None


class TurnSaver:
    def __init__(
        self, rememberer: Rememberer, tasks: BackgroundTasks, config: RememberConfig
    ) -> None:
        self._rememberer, self._tasks, self._config = rememberer, tasks, config

    async def check_quota(self, chat: Chat) -> None:
        """Leave the turn out where a quota is full; the reply's `memory` says so."""
        full = await self._rememberer.full(chat.principal) if chat.plan.written else None
        if full is not None:
            chat.plan.written, chat.plan.not_written = False, full
            metrics.LIMITED.labels("turn").inc()

    async def until_known(self, chat: Chat) -> None:
        """Wait until what the person said elsewhere is memory. Raises VaultUnavailable."""
        if chat.options.as_of is None:
            await self._rememberer.until_known(chat.principal, chat.messages)

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

        The plan says that the turn is written only if it is on disk then: a kill could lose it.

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
            problem = _problem(saving) if saving.done() else _LATE
            if problem is not None:
                chat.plan.written, chat.plan.not_written = False, problem

    async def _store(self, chat: Chat, body: Mapping[str, Any]) -> str | None:
        """Retry while the vault is locked or unreachable, so that no turn is lost.

        Returns:
            Why the turn is not stored; None: it is.
        """
        turn_id, pause = new_id("turn"), _FIRST_RETRY_SECONDS
        accept = functools.partial(self._rememberer.accept, chat.principal, body, turn_id)
        is_repeated = False
        while True:
            try:
                await asyncio.to_thread(accept, is_repeated=is_repeated)
                return None
            except Erased:
                log.info("a turn is not stored: its person was erased meanwhile")
                return "the person was erased meanwhile"
            except Unavailable as error:
                metrics.DEGRADED.labels("remember").inc()
                if len(self._tasks) > _WAITING_TURNS:
                    log.error("a turn is lost: too many wait for the vault: %s", error)
                    return "the vault does not answer, and too many turns wait for it"
                log.warning("storing a turn failed, retrying in %.0f s: %s", pause, error)
            is_repeated = True
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LAST_RETRY_SECONDS)


def _problem(saved: asyncio.Task[str | None]) -> str | None:
    """Why a turn is not stored. An unknown error costs the turn, which the reply says, and not the reply."""
    error = saved.exception()
    if error is not None:
        log.error("a turn is not stored", exc_info=error)
        return "the turn could not be stored: the server's log has the error"
    return saved.result()


def _has_no_memory(chat: Chat) -> bool:
    """Whether the reply was given without the memory that there may be."""
    options = chat.options
    wants_none = not options.retrieve or 0 in (options.top_k, options.budget_tokens)
    return chat.without_memory or (wants_none and chat.draft is None)
