"""From a rendered prompt to the orders for its KV: where memory stands in it, and whose it is."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from memos_vllm.activation.chain import (
    Part,
    Segment,
    history_cuts,
    locate,
    special_position,
)
from memos_vllm.activation.orders import Conversation, Orders, Source
from memos_vllm.activation.shared_prompts import SharedPrompts
from memos_vllm.config.tree import KVConfig
from memos_vllm.cube.ids import CubeVersion
from memos_vllm.governance.principal import Principal
from memos_vllm.governance.scope import Scopes
from memos_vllm.prompt import layout
from memos_vllm.scheduler.plan import KVPlan, KVSegment, PlanEntry
from memos_vllm.scheduler.scheduler import Draft
from memos_vllm.vault.views import AdapterCube

log = logging.getLogger(__name__)
_CACHED_TEXTS = 4096


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A request as the engine will get it."""

    text: str
    tokens: Sequence[int]
    client_salt: str | None


@dataclasses.dataclass(frozen=True)
class Writes:
    """What of a request may be kept."""

    head: bool
    """Cubes, and the client's system message in front of them (not with `store: false`)."""
    history: bool
    """What was said (only where the turn becomes memory)."""


@dataclasses.dataclass
class Chained:
    """The orders of one request, and which plan entry's tokens end where."""

    orders: Orders | None
    ends: list[tuple[PlanEntry, int]]
    plan: KVPlan
    near: list[Source] = dataclasses.field(default_factory=list)
    """What of it is approximate."""
    salt: str | None = None
    """Of a request with approximate blocks: nobody else ever has it, so nobody is handed them."""

    def observe(self, cached_tokens: int, block_size: int) -> None:
        """Note in the plan which cubes' KV was there, once the engine has said how much was.

        The engine's own prefix cache ends at a border of blocks, up to one block early.
        """
        near = {source.segment: source for source in self.near}
        positions = {segment.end: i for i, segment in enumerate(self.plan.segments)}
        for entry, end in self.ends:
            source = near.get(positions[end])
            if end - cached_tokens >= block_size:
                entry.form, entry.kv = "text", "prefill"
            elif source is None:
                entry.form, entry.kv = "kv", "exact"
            else:
                entry.form, entry.kv = "kv", "near"
                entry.context = _context(source.shared)
                entry.expected_kl = source.kl


def _under(adapters: Sequence[AdapterCube], segment: Segment, mine: str) -> Segment:
    return dataclasses.replace(
        segment,
        scope=mine if any(adapter.person for adapter in adapters) else segment.scope,
        cubes=(*(str(CubeVersion(a.cube_id, a.sequence)) for a in adapters), *segment.cubes),
    )


def _context(shared: int) -> str:
    return (
        f"behind the same {shared} cubes"
        if shared > 1
        else ("behind the same cube" if shared else "behind other text")
    )


class ChainPlanner:
    def __init__(
        self,
        tokenizer: Any,
        config: KVConfig,
        scopes: Scopes,
        prompts: SharedPrompts,
        generation: Callable[[str], int],
    ) -> None:
        """Args: generation: of a scope (`SegmentStore.generation`)."""
        self._encode_text: Callable[[str], list[int]] = lambda text: tokenizer.encode(
            text, add_special_tokens=False
        )
        self._config = config
        self._scopes = scopes
        self._prompts = prompts
        self._generation = generation
        self.plain_head: str | None = None
        """What the template puts in front of a first user message; None: not known yet."""
        self._encoded: OrderedDict[str, list[int]] = OrderedDict()
        strings: dict[str, int] = dict(getattr(tokenizer, "get_added_vocab", dict)())
        strings.update(
            zip(
                getattr(tokenizer, "all_special_tokens", ()),
                getattr(tokenizer, "all_special_ids", ()),
                strict=False,
            )
        )
        self._special = frozenset(strings.values())
        ordered = sorted(strings, key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, ordered))) if ordered else None

    def chain(
        self,
        principal: Principal,
        draft: Draft | None,
        prompt: Prompt,
        writes: Writes,
        adapters: Sequence[AdapterCube] = (),
    ) -> Chained:
        """Where to cut this prompt. Never raises for a prompt that cannot be cut: it is computed.

        Args:
            adapters: attached to the model, as one; what is computed with them is their owner's and
                goes with each of them.
        """
        mine = self._scopes.person(principal, prompt.client_salt)
        segments: list[Segment] = []
        ends: list[tuple[PlanEntry, int]] = []
        problem = None
        if draft is not None and (stable := draft.stable()):
            parts = [Part(c.entry.cube, f"{c.text}\n") for c in stable]
            found = locate(prompt.text, prompt.tokens, layout.OPENING, parts, self._encode)
            problem = found.problem
            scope = self._head_scope(principal, prompt, found.text_start)
            if found.head:
                segments.append(Segment(found.head, scope))
            cubes: tuple[str, ...] = ()
            for candidate, end in zip(stable, found.ends, strict=False):
                cubes = (*cubes, str(CubeVersion(candidate.entry.cube, candidate.sequence)))
                if candidate.owner:
                    scope = mine
                segments.append(Segment(end, scope, cubes))
                ends.append((candidate.entry, end))
        conversation = None
        if self._config.history and writes.history:
            conversation = self._conversation(prompt, draft, mine)
            if self._config.tier != "lmcache" or adapters:
                segments += self._cut(prompt, conversation, segments[-1].end if segments else 0)
                conversation = None
        if adapters:
            segments = [_under(adapters, segment, mine) for segment in segments]
        generations = {scope: self._generation(scope) for scope in {s.scope for s in segments}}
        segments = [dataclasses.replace(s, generation=generations[s.scope]) for s in segments]
        orders = Orders(tuple(segments), writes.head, conversation=conversation)
        shared = self._scopes.tenant(principal, prompt.client_salt)
        plan = KVPlan(
            segments=[
                KVSegment(end=s.end, shared=s.scope == shared, cubes=list(s.cubes))
                for s in segments
            ],
            conversation=conversation.end if conversation is not None else None,
            problem=problem,
        )
        return Chained(orders if segments or conversation else None, ends, plan)

    def _conversation(self, prompt: Prompt, draft: Draft | None, scope: str) -> Conversation:
        """The prompt up to what was retrieved for this turn: the next turn's prompt lacks that."""
        cubes = (
            tuple(str(CubeVersion(c.entry.cube, c.sequence)) for c in draft.stable())
            if draft
            else ()
        )
        if draft is None or not (retrieved := draft.retrieved_block()):
            return Conversation(len(prompt.tokens), scope, cubes, self._generation(scope))
        before = prompt.text[: max(prompt.text.rfind(retrieved), 0)]
        count = len(self._control.findall(before)) if self._control else 0
        end = special_position(prompt.tokens, self._special, count) + 1
        return Conversation(end, scope, cubes, self._generation(scope))

    def _cut(self, prompt: Prompt, conversation: Conversation, start: int) -> list[Segment]:
        least, end = self._config.segment_tokens, conversation.end
        cuts = history_cuts(prompt.tokens, self._special, start, end, least)
        return [Segment(cut, conversation.scope, conversation.cubes) for cut in cuts]

    def declare(self, principal: Principal, draft: Draft, prompt: Prompt) -> None:
        """Whoever may speak for the tenant says that what stands before memory is the tenant's own."""
        parts = [Part(c.entry.cube, f"{c.text}\n") for c in draft.stable()]
        found = locate(prompt.text, prompt.tokens, layout.OPENING, parts, self._encode)
        tenant = self._scopes.tenant(principal, prompt.client_salt)
        self._prompts.declare(tenant, prompt.text[: found.text_start])

    def _head_scope(self, principal: Principal, prompt: Prompt, characters: int) -> str:
        """Whose the prompt is in front of memory: the template's own words are anybody's.

        What else stands there (a system message, tools, an earlier message) came with the request
        and may name one person.
        """
        head = prompt.text[:characters]
        tenant = self._scopes.tenant(principal, prompt.client_salt)
        if head == self.plain_head or self._prompts.is_shared(tenant, principal.person, head):
            return tenant
        return self._scopes.person(principal, prompt.client_salt)

    def _encode(self, text: str) -> list[int]:
        """The same texts stand in prompt after prompt: their tokens are kept."""
        tokens = self._encoded.get(text)
        if tokens is None:
            tokens = self._encoded[text] = self._encode_text(text)
            if len(self._encoded) > _CACHED_TEXTS:
                self._encoded.popitem(last=False)
        else:
            self._encoded.move_to_end(text)
        return tokens
