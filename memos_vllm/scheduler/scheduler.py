"""MemScheduler: plan the memory of a prompt from candidates and a token budget."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence, Set
from datetime import UTC, datetime
from typing import Any

from memos_vllm.config.retrieval import RetrievalConfig
from memos_vllm.config.tree import PromptConfig
from memos_vllm.cube.model import Item, Placement
from memos_vllm.plaintext.search.search import Found
from memos_vllm.prompt import layout
from memos_vllm.prompt.messages import Message, last_user, text_of
from memos_vllm.prompt.quoting import Escape
from memos_vllm.scheduler.draft import Candidate, Draft, kept_candidates
from memos_vllm.scheduler.excerpt import excerpt
from memos_vllm.scheduler.kept import NONE, Blocks, head_of
from memos_vllm.scheduler.plan import Budget, MemoryPlan, PlanEntry
from memos_vllm.scheduler.sieve import Sieve, is_reply
from memos_vllm.vault.views import StableCube

_TRIES = 2
"""Items too large for the rest of the budget that are measured for each place."""
_BEGINNING = datetime.min.replace(tzinfo=UTC)


@dataclasses.dataclass(frozen=True, slots=True)
class Tokenizer:
    """The served model's tokenizer and context, as planning uses them."""

    count: Callable[[str], int]
    escape: Escape
    context: int
    places: Callable[[str, str], int | None] | None = None
    """Tokens that stand for the text of a cube (id, text) in this request; None: those of the text."""


class MemScheduler:
    def __init__(self, config: PromptConfig, retrieval: RetrievalConfig | None = None) -> None:
        self._config = config
        self._retrieval = retrieval or RetrievalConfig()

    def budget(
        self,
        tokenizer: Tokenizer,
        asked: int | None,
        max_reply: int | None,
        most: int | None = None,
    ) -> Budget:
        """Token limit of memory, before the length of the prompt is known.

        Args:
            asked: `memory.budget_tokens` of the request.
            max_reply: `max_tokens` of the request; None keeps `reply_reserve_tokens` free.
            most: limit of the tenant; None: it has none.
        """
        reply = self._config.reply_reserve_tokens if max_reply is None else max_reply
        limits = {
            "the configured budget": self._config.budget_tokens if asked is None else asked,
            "the share of the context": int(tokenizer.context * self._config.context_share),
            "the context less the reply": max(0, tokenizer.context - reply),
        }
        if most is not None:
            limits["the tenant's limit"] = most
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
        places: int | None = None,
        reader: layout.Reader | None = None,
        kept: tuple[str, Blocks] = NONE,
    ) -> Draft:
        """Choose the candidates that fit into the budget, best first.

        Args:
            stable: in prompt order; the request names the first `named`.
            found: search results, best first.
            further: results behind them; they take the places of those that are rejected.
            places: number of items; default: that of `found`.
            reader: whom the prompt is for; None: the user's words stand under their id.
            kept: (head of the prompt before, what it had in front of each message); it is taken over behind the
                same head.
        """
        framing = tokenizer.count(layout.block([]))
        head = _head(stable, named, tokenizer)
        left = _fit_stable(head, budget.limit - (framing if stable else 0))
        used = {c.entry.cube for c in head if c.entry.decision == "used"}
        is_same = kept[0] == head_of([c.entry for c in head if c.entry.decision == "used"])
        before = kept_candidates(kept[1]) if is_same else []
        sieve = Sieve(
            [*found, *further],
            messages,
            in_prompt=used,
            stable=[i.text for cube in stable if cube.cube_id in used for i in cube.items],
        )
        selection = _Selection(
            sieve,
            self._retrieval,
            question=_question(messages),
            tokenizer=tokenizer,
            places=max(len(found), places or 0),
            left=left - (framing if found else 0),
            reader=reader,
            kept={c.entry.item for c in before},
        )
        candidates = [*head, *before, *selection.of(found, further)]
        plan = MemoryPlan(entries=[c.entry for c in candidates], budget=budget)
        return Draft(plan, candidates)


@dataclasses.dataclass
class _Selection:
    """Fills the places of the retrieved block, best first."""

    sieve: Sieve
    config: RetrievalConfig
    question: str
    tokenizer: Tokenizer
    places: int
    left: int
    """Tokens."""
    reader: layout.Reader | None = None
    kept: Set[str | None] = frozenset()
    """Items that the prompt has in front of earlier messages; each has one of the places."""
    taken: int = 0
    replies: int = 0
    too_large: int = 0
    sessions: Counter[str] = dataclasses.field(default_factory=Counter)

    def of(self, found: Sequence[Found], further: Sequence[Found]) -> list[Candidate]:
        """A candidate for each result, used or rejected with the reason.

        The best results come first, among them the words of people before replies; then those behind
        them; and last those of sessions that have many items already.
        """
        replies = [each for each in found if is_reply(each.recalled)]
        own = [each for each in found if not is_reply(each.recalled)]
        candidates: dict[int, Candidate] = {}
        crowded = []
        for result in [*own, *replies, *further]:
            if self._is_crowded(result) and self.taken < self.places:
                crowded.append(result)
            else:
                candidates[id(result)] = self._decide(result)
        for result in crowded:
            candidates[id(result)] = self._decide(result)
        return [candidates[id(result)] for result in [*found, *further]]

    def _decide(self, result: Found) -> Candidate:
        if self.taken >= self.places:
            return _rejected(result, f"not among the best {self.places} for the question")
        if result.recalled.item.id in self.kept:
            self.taken += 1
            return _rejected(result, "stands in front of an earlier message")
        if (problem := self.sieve.problem(result)) is not None:
            return _rejected(result, problem)
        if is_reply(result.recalled) and self.replies >= self.config.most_replies:
            return _rejected(result, f"{self.config.most_replies} better replies are in the prompt")
        if self.too_large > _TRIES * self.places:
            return _rejected(result, f"the budget is full: {max(self.left, 0)} tokens are left")
        candidate = self._candidate(result)
        tokens = candidate.entry.tokens
        if tokens > self.left:
            self.too_large += 1
            _reject(candidate, f"needs {tokens} tokens and {max(self.left, 0)} are left")
            return candidate
        self._take(result, tokens)
        return candidate

    def _candidate(self, result: Found) -> Candidate:
        recalled, tokenizer = result.recalled, self.tokenizer
        item: Item = recalled.item
        entry = _retrieved_entry(result)
        value = (1.0, result.score)
        if is_reply(recalled):
            value = (0.0, result.score)
            most = self.config.reply_tokens
            text = excerpt(item.text, self.question, most, tokenizer.count)
            if text != item.text:
                item = item.model_copy(update={"text": text})
                entry.reason += "; cut to the sentences that match it"
        text = layout.quote_item(
            item,
            tokenizer.escape,
            result.over,
            self.reader,
            owner=recalled.person,
            followed=result.followed,
        )
        entry.tokens = tokenizer.count(text + "\n")
        order = (item.time or _BEGINNING, recalled.cube_id, item.source or "")
        return Candidate(entry, text, value, order, found=result)

    def _take(self, result: Found, tokens: int) -> None:
        self.sieve.take(result)
        self.left -= tokens
        self.taken += 1
        self.replies += is_reply(result.recalled)
        if (session := _session(result)) is not None:
            self.sessions[session] += 1

    def _is_crowded(self, result: Found) -> bool:
        session = _session(result)
        return session is not None and self.sessions[session] >= self.config.most_of_session


def hottest_first(stable: Sequence[StableCube], named: int) -> list[StableCube]:
    """Sort the named cubes by heat, so that prompts share prefixes; log2 of reads changes rarely."""

    def heat(cube: StableCube) -> tuple[Any, ...]:
        return bool(cube.person), -cube.reads.bit_length(), cube.created_us, cube.cube_id

    return [*sorted(stable[:named], key=heat), *stable[named:]]


def _head(stable: Sequence[StableCube], named: int, tokenizer: Tokenizer) -> list[Candidate]:
    return [
        _stable_candidate(cube, position=position, is_named=position < named, tokenizer=tokenizer)
        for position, cube in enumerate(stable)
    ]


def _fit_stable(candidates: Sequence[Candidate], left: int) -> int:
    """Reject cubes that do not fit whole; the number of tokens that are left then."""
    for candidate in candidates:
        tokens = candidate.cost
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


def _session(result: Found) -> str | None:
    """Session of verbatim words; None: a claim, or of no session."""
    item = result.recalled.item
    return item.session if item.claim is None else None


def _question(messages: Sequence[Message]) -> str:
    position = last_user(messages)
    return text_of(messages[position]) if position is not None else ""


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
    # Rejected in this order: replies, other retrieved items, stable cubes, cubes that the request names.
    value = (2.0 + is_named, cube.priority, -position)
    candidate = Candidate(
        entry,
        text,
        value,
        (position,),
        is_private=bool(cube.person) or cube.is_listed,
        sequence=cube.sequence,
        places=tokenizer.places(cube.cube_id, text) if tokenizer.places else None,
    )
    if not cube.items:
        _reject(candidate, "the cube is empty")
    return candidate


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
