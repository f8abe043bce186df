"""Segments of a rendered prompt: where memory is in it, and which scope owns its KV."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cachetools import LRUCache

from memos_vllm.activation.chain import (
    Part,
    Segment,
    history_cuts,
    locate,
    special_position,
)
from memos_vllm.activation.compacts import Compact
from memos_vllm.activation.orders import Conversation, Orders, SharedHead, Source
from memos_vllm.activation.shared_prompts import SharedPrompts
from memos_vllm.config.kv import KVConfig
from memos_vllm.cube.ids import CubeVersion
from memos_vllm.governance.principal import Principal
from memos_vllm.governance.salt import composed
from memos_vllm.governance.scope import Scopes
from memos_vllm.prompt import layout
from memos_vllm.scheduler.draft import Draft
from memos_vllm.scheduler.plan import KVPlan, KVSegment, PlanEntry
from memos_vllm.vault.views import AdapterCube

log = logging.getLogger(__name__)
_CACHED_TEXTS = 4096


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A rendered prompt: text and token ids."""

    text: str
    tokens: Sequence[int]
    client_salt: str | None


@dataclasses.dataclass(frozen=True)
class Writes:
    """Parts of a prompt whose KV may be stored."""

    head: bool
    """Cubes and the system message in front of them (not with `store: false`)."""
    history: bool
    """The conversation (only where the turn becomes memory)."""


@dataclasses.dataclass
class Chained:
    """KV orders of one request, and the token at which each plan entry ends."""

    orders: Orders | None
    ends: list[tuple[PlanEntry, int]]
    plan: KVPlan
    near: list[Source] = dataclasses.field(default_factory=list)
    """Sources of its approximate segments."""
    salt: str | None = None
    """Salt of a request with approximate blocks: unique, so that no other request gets them."""
    compacts: Mapping[str, Compact] = dataclasses.field(default_factory=dict)
    """Compacts in the prompt, by cube."""
    text: Chained | None = None
    """The same prompt with the text of these cubes."""

    def borders(self) -> tuple[int, list[tuple[int, int]]]:
        """(tokens up to the end of the last cube, (start, end) of each approximate segment)"""
        ends = [segment.end for segment in self.plan.segments]
        starts = [0, *ends]
        head = max((end for _, end in self.ends), default=0)
        return head, [(starts[s.segment], ends[s.segment]) for s in self.near]

    def places(self) -> list[tuple[int, int]]:
        """(start, end) of each compact."""
        return [
            (end - self.compacts[entry.cube].places, end)
            for entry, end in self.ends
            if entry.cube in self.compacts
        ]

    def observe(self, cached_tokens: int, block_size: int) -> None:
        """Note in the plan which cubes' KV was cached or loaded.

        The engine's prefix cache ends at a block boundary, up to one block early.

        Args:
            cached_tokens: as the engine reports them.
        """
        near = {source.segment: source for source in self.near}
        positions = {segment.end: i for i, segment in enumerate(self.plan.segments)}
        for entry, end in self.ends:
            source = near.get(positions[end])
            compact = self.compacts.get(entry.cube)
            if compact is not None:
                entry.form, entry.kv = "kv", "compact"
                entry.places, entry.expected_kl = compact.places, compact.kl
            elif end - cached_tokens >= block_size:
                entry.form, entry.kv = "text", "prefill"
            elif source is None:
                entry.form, entry.kv = "kv", "exact"
            else:
                entry.form, entry.kv = "kv", "near"
                entry.context = _context(source.shared)
                entry.expected_kl = source.kl


def _shared_head(segments: Sequence[Segment], tenant: str) -> SharedHead | None:
    """The leading segments of the tenant's scope, where a cube is among them: the engine shares their blocks as
    far as kept KV is shared."""
    head = list(itertools.takewhile(lambda segment: segment.scope == tenant, segments))
    if not head or not head[-1].cubes:
        return None
    generation = head[-1].generation
    return SharedHead(head[-1].end, composed("memos-shared-head-1", tenant, str(generation)))


def _under(adapters: Sequence[AdapterCube], segment: Segment, mine: str) -> Segment:
    return dataclasses.replace(
        segment,
        scope=mine
        if any(adapter.person or adapter.is_listed for adapter in adapters)
        else segment.scope,
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
        plain_head: str | None,
    ) -> None:
        """Build a planner for one tokenizer.

        Args:
            generation: of a scope (`SegmentStore.generation`).
            plain_head: text that the chat template puts in front of a first user message; None:
                unknown, so that no head counts as the template's own.
        """
        self._encode_text: Callable[[str], list[int]] = lambda text: tokenizer.encode(
            text, add_special_tokens=False
        )
        self._config = config
        self._scopes = scopes
        self._prompts = prompts
        self._generation = generation
        self._plain_head = plain_head
        self._encoded: LRUCache[str, list[int]] = LRUCache(maxsize=_CACHED_TEXTS)
        self._encoding = threading.Lock()  # `declare` runs in a thread
        self._shares = config.shared_blocks
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

    @property
    def special(self) -> frozenset[int]:
        """Ids of the tokenizer's control tokens."""
        return self._special

    def chain(
        self,
        principal: Principal,
        draft: Draft | None,
        prompt: Prompt,
        writes: Writes,
        adapters: Sequence[AdapterCube] = (),
    ) -> Chained:
        """Cut a prompt into segments; one that cannot be cut gets none and is computed.

        Args:
            draft: the memory in it; None: there is none.
            adapters: cubes of the attached adapter; KV computed with it belongs to their owner and is
                deleted with each of them.
        """
        mine = self._scopes.person(principal, prompt.client_salt)
        segments, ends, problem = self._head(principal, draft=draft, prompt=prompt, mine=mine)
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
        shared = self._scopes.tenant(principal, prompt.client_salt)
        orders = Orders(
            tuple(segments),
            writes.head,
            conversation=conversation,
            shared=_shared_head(segments, shared) if self._shares and shared != mine else None,
        )
        plan = KVPlan(
            segments=[
                KVSegment(end=s.end, shared=s.scope == shared, cubes=list(s.cubes))
                for s in segments
            ],
            conversation=conversation.end if conversation is not None else None,
            problem=problem,
        )
        return Chained(orders if segments or conversation else None, ends, plan)

    def _head(
        self, principal: Principal, draft: Draft | None, prompt: Prompt, mine: str
    ) -> tuple[list[Segment], list[tuple[PlanEntry, int]], str | None]:
        """Segments of the prompt's head: the text in front of memory, then one for each cube.

        Args:
            mine: scope of the person; that of every segment from the first cube on that not the whole
                tenant reads.

        Returns:
            (segments, each cube's entry in the plan with its end, why the head cannot be cut)
        """
        if draft is None or not (stable := draft.stable()):
            return [], [], None
        parts = [Part(c.entry.cube, f"{c.text}\n") for c in stable]
        found = locate(
            prompt.text,
            tokens=prompt.tokens,
            opening=layout.OPENING,
            parts=parts,
            encode=self.encode,
        )
        scope = self._head_scope(principal, prompt, found.text_start)
        segments = [Segment(found.head, scope)] if found.head else []
        ends: list[tuple[PlanEntry, int]] = []
        cubes: tuple[str, ...] = ()
        for candidate, end in zip(stable, found.ends, strict=False):
            cubes = (*cubes, str(CubeVersion(candidate.entry.cube, candidate.sequence)))
            if candidate.is_private:
                scope = mine
            segments.append(Segment(end, scope, cubes))
            ends.append((candidate.entry, end))
        return segments, ends, found.problem

    def _conversation(self, prompt: Prompt, draft: Draft | None, scope: str) -> Conversation:
        """The prompt up to retrieved memory: no KV of it is stored, whether the next prompt repeats it or not."""
        cubes = (
            tuple(str(CubeVersion(c.entry.cube, c.sequence)) for c in draft.stable())
            if draft
            else ()
        )
        if draft is None or not (retrieved := draft.retrieved_block()):
            return Conversation(
                len(prompt.tokens), scope=scope, cubes=cubes, generation=self._generation(scope)
            )
        begin = prompt.text.find if draft.kept() else prompt.text.rfind
        before = prompt.text[: max(begin(retrieved), 0)]
        count = len(self._control.findall(before)) if self._control else 0
        end = special_position(prompt.tokens, self._special, count) + 1
        return Conversation(end, scope=scope, cubes=cubes, generation=self._generation(scope))

    def _cut(self, prompt: Prompt, conversation: Conversation, start: int) -> list[Segment]:
        least, end = self._config.segment_tokens, conversation.end
        cuts = history_cuts(
            prompt.tokens, special=self._special, start=start, limit=end, least=least
        )
        return [Segment(cut, conversation.scope, conversation.cubes) for cut in cuts]

    def declare(self, principal: Principal, draft: Draft, prompt: Prompt) -> None:
        """Declare the text in front of memory as the tenant's, on behalf of a tenant's admin."""
        parts = [Part(c.entry.cube, f"{c.text}\n") for c in draft.stable()]
        found = locate(
            prompt.text,
            tokens=prompt.tokens,
            opening=layout.OPENING,
            parts=parts,
            encode=self.encode,
        )
        tenant = self._scopes.tenant(principal, prompt.client_salt)
        self._prompts.declare(tenant, prompt.text[: found.text_start])

    def _head_scope(self, principal: Principal, prompt: Prompt, characters: int) -> str:
        """Scope of the prompt in front of memory; the chat template's own text is the tenant's.

        Any other text there (system message, tools, an earlier message) came with the request and
        may name one person.
        """
        head = prompt.text[:characters]
        tenant = self._scopes.tenant(principal, prompt.client_salt)
        if head == self._plain_head or self._prompts.is_shared(tenant, principal.person, head):
            return tenant
        for scopes in self._scopes.older(
            principal, prompt.client_salt
        ):  # declared before a rotation
            if self._prompts.is_shared(scopes[tenant], principal.person, head):
                return tenant
        return self._scopes.person(principal, prompt.client_salt)

    def forget_texts(self) -> None:
        """Drop all cached texts: which person's they are is not known."""
        with self._encoding:
            self._encoded.clear()

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, cached: the same texts recur in many prompts."""
        with self._encoding:
            tokens = self._encoded.get(text)
        if tokens is None:
            tokens = self._encode_text(text)
            with self._encoding:
                self._encoded[text] = tokens
        return tokens
