"""KV orders of a chat request: planned before the engine computes, observed afterwards."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterator

from memos_vllm.activation.quota import KVQuota
from memos_vllm.engine.gateway import EngineCall
from memos_vllm.engine.kv_plan.compact import CompactPlanner
from memos_vllm.engine.kv_plan.near import NearPlanner
from memos_vllm.engine.kv_plan.planner import Chained, ChainPlanner, Prompt, Writes
from memos_vllm.engine.kv_plan.prefetch import Prefetcher
from memos_vllm.engine.kv_plan.promoter import Head, Promoter
from memos_vllm.engine.kv_plan.rekey import Rekeyer
from memos_vllm.governance.limits.policy import LimitsOf
from memos_vllm.governance.principal import Principal
from memos_vllm.governance.redaction.redactor import Redactor, Redactors
from memos_vllm.governance.scope import Scopes
from memos_vllm.ports import Chat
from memos_vllm.prompt.messages import SYSTEM_ROLES, Message, said_in, text_of


@dataclasses.dataclass(frozen=True)
class KVOrders:
    """Activation memory as a chat request uses it."""

    planner: ChainPlanner
    near: NearPlanner
    compacts: CompactPlanner
    promoter: Promoter
    prefetcher: Prefetcher | None
    """None: nothing is fetched ahead."""
    block_size: int
    redactors: Redactors
    scopes: Scopes
    quota: KVQuota
    limits_of: LimitsOf
    rekeyer: Rekeyer | None = None
    """None: KV under an older secret is not looked for."""

    def arrived(self, principal: Principal) -> None:
        """A request came in: fetch ahead the KV that its person used last."""
        if self.prefetcher is not None:
            self.prefetcher.arrived(principal)

    async def order(
        self, chat: Chat, prompt: Prompt, call: EngineCall, reads_prompt: bool = False
    ) -> tuple[Chained, Prompt]:
        """Cut a prompt into segments and put the connector's orders into the call.

        Args:
            reads_prompt: the reply depends on the ids of the prompt's tokens (penalties, log-probabilities).

        Returns:
            (the orders, the prompt: with places instead of text where compacts are used)
        """
        chained = self.planner.chain(
            chat.principal,
            draft=chat.draft,
            prompt=prompt,
            writes=await self._writes(chat),
            adapters=chat.adapter.cubes if chat.adapter is not None else (),
        )
        chat.plan.kv = chained.plan
        if self.rekeyer is not None and chained.orders is not None and chat.adapter is None:
            await self.rekeyer.move(
                chat.principal, prompt.client_salt, prompt.tokens, chained.orders.segments
            )
        if chat.adapter is None:  # near, building and prefetching serve the base model only
            if chat.options.kv == "near":
                await self.near.plan(chat.principal, prompt, chained)
                call.private_salt = chained.salt
            elif chat.options.kv == "compact":
                chained, prompt = await self._compacted(chat, prompt, chained, call, reads_prompt)
            self._count_use_of_head(chat, chained)
        if chained.orders is not None:
            call.kv_orders = chained.orders.to_params()
        return chained, prompt

    async def _compacted(
        self, chat: Chat, prompt: Prompt, chained: Chained, call: EngineCall, reads_prompt: bool
    ) -> tuple[Chained, Prompt]:
        if reads_prompt:
            chained.plan.problem = (
                "text instead of compact: `repetition_penalty`, `prompt_logprobs`, `echo` and beam search read "
                "the prompt"
            )
            return chained, prompt
        compacted, shorter = await self.compacts.plan(chat.principal, prompt, chained, call)
        chat.plan.kv = compacted.plan
        return compacted, shorter

    def places_for(self, principal: Principal) -> Callable[[str, str], int | None]:
        """A function of a cube's id and text: places of its compact for this principal; None: it has none.

        Under a tenant's limit of injected tokens the text counts: it stands in the prompt where the compact cannot
        be loaded.
        """
        limit = self.limits_of(principal.tenant).injected_tokens

        def places(cube: str, text: str) -> int | None:
            if self.compacts.problem is not None or limit is not None:
                return None
            found = self.compacts.find(principal, cube, self.planner.encode(f"{text}\n"))
            return found.places if found is not None else None

        return places

    async def _writes(self, chat: Chat) -> Writes:
        limit = self.limits_of(chat.principal.tenant).kv_bytes
        if limit is not None:
            scopes = [self.scopes.person(chat.principal), self.scopes.tenant(chat.principal)]
            tenant = chat.principal.tenant
            if not await asyncio.to_thread(self.quota.has_room, tenant, scopes, limit):
                return Writes(head=False, history=False)
        return writes_of(chat, self.redactors.of(chat.principal.tenant))

    def observe(self, chat: Chat, prompt: Prompt, chained: Chained) -> None:
        """Note in the plan which KV was loaded, once the engine has reported its cached tokens.

        What was served approximately is built exactly, and what is likely next is fetched ahead.
        """
        chained.observe(chat.plan.cached_tokens or 0, self.block_size)
        for entry, _ in chained.ends:
            if entry.places is not None:
                chat.plan.injected_tokens -= entry.tokens - entry.places
        if chained.near:
            self.near.heal(prompt, chained)
        if self.prefetcher is None or chained.orders is None or chat.adapter is not None:
            return
        if chained.compacts:
            return
        if chained.orders.save:  # neither approximate KV nor what `store: false` forbids to keep
            self.prefetcher.answered(chat.principal, prompt, chained.orders.segments)

    def _count_use_of_head(self, chat: Chat, chained: Chained) -> None:
        """Count the use of this head, so that it is rebuilt when one of its cubes changes."""
        if not chained.ends:
            return
        first = chat.messages[0]
        end = chained.ends[-1][1]
        head = Head(
            chat.principal,
            named=chat.options.cubes,
            system=text_of(first) if first.get("role") in SYSTEM_ROLES else None,
            cubes=frozenset(entry.cube for entry, _ in chained.ends),
        )
        last = next(s for s in chained.plan.segments if s.end == end)
        self.promoter.note(head, bool(last.shared))


def writes_of(chat: Chat, redactor: Redactor) -> Writes:
    """What may be stored: of a prompt that holds a secret, at most the part in front of it."""
    said = any(redactor.holds_any(text) for each in chat.messages for text in _texts(each))
    system = said and any(
        redactor.holds_any(text_of(each))
        for each in chat.messages
        if each.get("role") in SYSTEM_ROLES
    )
    return Writes(head=chat.store and not system, history=chat.plan.written and not said)


def _texts(message: Message) -> Iterator[str]:
    """All that a message puts into the prompt: its text, and arguments of tool calls."""
    yield said_in(message)
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list | tuple) else ():
        yield str(call)
