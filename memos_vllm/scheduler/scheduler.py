"""MemScheduler: plan the memory of a prompt from candidates and a token budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence, Set
from datetime import UTC, datetime
from typing import Any

from memos_vllm.config.tree import PromptConfig
from memos_vllm.cube.model import Item, Placement
from memos_vllm.plaintext.search.search import Found
from memos_vllm.prompt import layout
from memos_vllm.prompt.messages import Message, text_of
from memos_vllm.prompt.quoting import Escape
from memos_vllm.scheduler.plan import Budget, MemoryPlan, PlanEntry
from memos_vllm.vault.views import StableCube

_BEGINNING = datetime.min.replace(tzinfo=UTC)


@dataclasses.dataclass(frozen=True, slots=True)
class Tokenizer:
    """The served model's tokenizer and context, as planning uses them."""

    count: Callable[[str], int]
    escape: Escape
    context: int


@dataclasses.dataclass(slots=True)
class Candidate:
    """One piece of memory: its quoted text, and its entry in the plan."""

    entry: PlanEntry
    text: str
    value: tuple[float, ...]
    """Lower values are rejected first when the prompt is too long."""
    order: tuple[Any, ...]
    """Sort key inside its block."""
    owner: str = ""
    """Person; empty: the tenant."""
    sequence: int = 0
    """Of the cube's version."""


@dataclasses.dataclass(slots=True)
class Draft:
    """A plan that can still shrink."""

    plan: MemoryPlan
    candidates: list[Candidate]

    def place(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        return layout.place(
            messages, self._texts(Placement.STABLE), self._texts(Placement.RETRIEVED)
        )

    def stable(self) -> list[Candidate]:
        """Candidates at the head, in prompt order."""
        return self._placed(Placement.STABLE)

    def retrieved_block(self) -> str | None:
        """The text in front of the last user message."""
        texts = self._texts(Placement.RETRIEVED)
        return layout.block(texts) if texts else None

    def give_way(self, tokens: int, reason: str) -> None:
        """Reject used candidates, lowest value first, until `tokens` are free (or all are gone)."""
        freed = 0
        for candidate in sorted(self._used(), key=lambda c: c.value):
            if freed >= tokens:
                break
            candidate.entry.decision, candidate.entry.reason = "rejected", reason
            freed += candidate.entry.tokens

    def is_empty(self) -> bool:
        return not self._used()

    def _used(self) -> list[Candidate]:
        return [c for c in self.candidates if c.entry.decision == "used"]

    def _texts(self, placement: Placement) -> list[str]:
        return [c.text for c in self._placed(placement)]

    def _placed(self, placement: Placement) -> list[Candidate]:
        chosen = [c for c in self._used() if c.entry.placement == placement]
        return sorted(chosen, key=lambda c: c.order)


class MemScheduler:
    def __init__(self, config: PromptConfig) -> None:
        self._config = config

    def budget(self, tokenizer: Tokenizer, asked: int | None, max_reply: int | None) -> Budget:
        """Token limit of memory, before the length of the prompt is known.

        Args:
            asked: `memory.budget_tokens` of the request.
            max_reply: `max_tokens` of the request; None keeps `reply_reserve_tokens` free.
        """
        reply = self._config.reply_reserve_tokens if max_reply is None else max_reply
        limits = {
            "the configured budget": self._config.budget_tokens if asked is None else asked,
            "the share of the context": int(tokenizer.context * self._config.context_share),
            "the context less the reply": max(0, tokenizer.context - reply),
        }
        reason, limit = min(limits.items(), key=lambda pair: pair[1])
        return Budget(limit=limit, context=tokenizer.context, reply=reply, reason=reason)

    def plan(
        self,
        messages: Sequence[Message],
        stable: Sequence[StableCube],
        found: Sequence[Found],
        budget: Budget,
        tokenizer: Tokenizer,
        named: int = 0,
        further: Sequence[Found] = (),
    ) -> Draft:
        """Choose the candidates that fit into the budget, best first.

        Args:
            stable: in prompt order; the request names the first `named`.
            found: search results, best first.
            further: results behind them; only explained.
        """
        framing = tokenizer.count(layout.block([]))
        head = [
            _stable_candidate(
                cube, position=position, is_named=position < named, tokenizer=tokenizer
            )
            for position, cube in enumerate(stable)
        ]
        left = _fit_stable(head, budget.limit - (framing if stable else 0))
        results = [(result, _retrieved_candidate(result, tokenizer)) for result in found]
        in_prompt = {c.entry.cube for c in head if c.entry.decision == "used"}
        conversation = [_normal(text_of(message)) for message in messages]
        _fit_retrieved(
            results,
            in_prompt=in_prompt,
            conversation=conversation,
            left=left - (framing if found else 0),
        )
        reason = f"not among the best {len(found)} for the question"
        rest = [_rejected(result, reason) for result in further]
        candidates = [*head, *(candidate for _, candidate in results), *rest]
        plan = MemoryPlan(entries=[c.entry for c in candidates], budget=budget)
        return Draft(plan, candidates)


def hottest_first(stable: Sequence[StableCube], named: int) -> list[StableCube]:
    """Sort the named cubes by heat, so that prompts share prefixes; log2 of reads changes rarely."""

    def heat(cube: StableCube) -> tuple[Any, ...]:
        return bool(cube.person), -cube.reads.bit_length(), cube.created_us, cube.cube_id

    return [*sorted(stable[:named], key=heat), *stable[named:]]


def _fit_stable(candidates: Sequence[Candidate], left: int) -> int:
    """Reject cubes that do not fit whole; the number of tokens that are left then."""
    for candidate in candidates:
        tokens = candidate.entry.tokens
        if candidate.entry.decision == "rejected":
            continue
        if tokens > left:
            _reject(
                candidate,
                f"needs {tokens} tokens whole and {max(left, 0)} are left; its items are still found "
                "by search",
            )
        else:
            left -= tokens
    return left


def _fit_retrieved(
    results: Sequence[tuple[Found, Candidate]],
    in_prompt: Set[str],
    conversation: Sequence[str],
    left: int,
) -> None:
    """Reject items that repeat the prompt or do not fit.

    Args:
        in_prompt: cubes that the prompt has whole.
        conversation: normalised texts of the messages.
        left: tokens.
    """
    seen: set[str] = set()
    for result, candidate in results:
        text, tokens = _normal(result.recalled.item.text), candidate.entry.tokens
        if result.recalled.cube_id in in_prompt:
            _reject(candidate, "the prompt has its cube already")
        elif any(text in message for message in conversation):
            _reject(candidate, "already in the conversation")
        elif text in seen:
            _reject(candidate, "the same words as a better item")
        elif tokens > left:
            _reject(candidate, f"needs {tokens} tokens and {max(left, 0)} are left")
        else:
            left -= tokens
            seen.add(text)


def _rejected(result: Found, reason: str) -> Candidate:
    entry = _retrieved_entry(result)
    entry.decision, entry.reason = "rejected", reason
    return Candidate(entry, "", (), ())


def _reject(candidate: Candidate, reason: str) -> None:
    candidate.entry.decision, candidate.entry.reason = "rejected", reason


def _stable_candidate(
    cube: StableCube, position: int, is_named: bool, tokenizer: Tokenizer
) -> Candidate:
    text = layout.quote_cube(cube.name, cube.items, tokenizer.escape)
    entry = PlanEntry(
        cube=cube.cube_id,
        version=cube.version,
        name=cube.name,
        placement=Placement.STABLE,
        tokens=tokenizer.count(text + "\n"),
        reason="named in the request" if is_named else "placed at the head of every prompt",
    )
    # Rejected in this order: retrieved items, stable cubes, cubes that the request names.
    value = (2.0 + is_named, cube.priority, -position)
    candidate = Candidate(
        entry, text, value, (position,), owner=cube.person, sequence=cube.sequence
    )
    if not cube.items:
        _reject(candidate, "the cube is empty")
    return candidate


def _retrieved_candidate(result: Found, tokenizer: Tokenizer) -> Candidate:
    recalled = result.recalled
    item: Item = recalled.item
    text = layout.quote_item(item, tokenizer.escape, result.over)
    entry = _retrieved_entry(result)
    entry.tokens = tokenizer.count(text + "\n")
    moment = item.time or _BEGINNING
    order = (moment, recalled.cube_id, item.source or "")
    return Candidate(entry, text, (1.0, result.score), order)


def _retrieved_entry(result: Found) -> PlanEntry:
    recalled = result.recalled
    return PlanEntry(
        cube=recalled.cube_id,
        version=recalled.version,
        name=recalled.cube_name,
        placement=Placement.RETRIEVED,
        item=recalled.item.id,
        score=result.score,
        signals=dict(result.signals),
        reason=f"names {result.via}, as a better item does"
        if result.via
        else "matches the question",
    )


def _normal(text: str) -> str:
    return " ".join(text.split()).casefold()
