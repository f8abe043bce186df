"""A plan of a prompt's memory that can still shrink: candidates with their text and their place."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from memos_vllm.cube.model import Placement
from memos_vllm.plaintext.search.search import Found
from memos_vllm.prompt import layout
from memos_vllm.prompt.messages import Message
from memos_vllm.scheduler.kept import Blocks, KeptItem
from memos_vllm.scheduler.plan import MemoryPlan, PlanEntry


@dataclasses.dataclass(slots=True)
class Candidate:
    """One piece of memory: its quoted text, and its entry in the plan."""

    entry: PlanEntry
    text: str
    value: tuple[float, ...]
    """Lower values are rejected first when the prompt is too long."""
    order: tuple[Any, ...]
    """Sort key inside its block."""
    is_private: bool = False
    """It is a person's, or only listed people of the tenant may read it."""
    sequence: int = 0
    """Of the cube's version."""
    places: int | None = None
    """Tokens that stand for the text, if it has a compact."""
    found: Found | None = None
    """The result that it is made of."""
    kept: KeptItem | None = None
    """What it was in the conversation's last prompt."""
    at: int | None = None
    """Position of the earlier message in front of which it stays; None: its place is that of its placement."""

    @property
    def cost(self) -> int:
        """Tokens of the budget."""
        return self.entry.tokens if self.places is None else self.places


@dataclasses.dataclass(slots=True)
class Draft:
    """A plan that can still shrink."""

    plan: MemoryPlan
    candidates: list[Candidate]

    def place(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        kept: dict[int, list[str]] = {}
        for candidate in self.kept():
            kept.setdefault(candidate.at or 0, []).append(candidate.text)
        return layout.place(
            messages, self._texts(Placement.STABLE), self._texts(Placement.RETRIEVED), kept
        )

    def stable(self) -> list[Candidate]:
        """Candidates at the head, in prompt order."""
        return self._placed(Placement.STABLE)

    def retrieved(self) -> list[Candidate]:
        """Candidates in front of the last user message, in prompt order."""
        return self._placed(Placement.RETRIEVED)

    def kept(self) -> list[Candidate]:
        """Candidates in front of earlier messages, in prompt order."""
        return [c for c in self._used() if c.at is not None]

    def retrieved_block(self) -> str | None:
        """The first retrieved text in the prompt: in front of the last user message, or of the first that kept some."""
        kept = self.kept()
        texts = [c.text for c in kept if c.at == kept[0].at] if kept else []
        texts = texts or self._texts(Placement.RETRIEVED)
        return layout.block(texts) if texts else None

    def give_way(self, tokens: int, reason: str) -> None:
        """Reject used candidates, lowest value first, until `tokens` are free (or all are gone).

        What is kept in front of earlier messages goes first, and all of it: a part would break the prefix, too.
        """
        freed = 0
        for candidate in self.kept():
            candidate.entry.decision, candidate.entry.reason = "rejected", reason
            freed += candidate.entry.tokens
        for candidate in sorted(self._used(), key=lambda c: c.value):
            if freed >= tokens:
                break
            candidate.entry.decision, candidate.entry.reason = "rejected", reason
            freed += candidate.entry.tokens

    def leave_out(self, ids: Sequence[str]) -> Draft:
        """Reject used candidates by the id of their item, or of their cube where they are a whole one; this draft."""
        for candidate in self._used():
            if (candidate.entry.item or candidate.entry.cube) in ids:
                candidate.entry.decision = "rejected"
                candidate.entry.reason = "left out, as the request says (`memory.without`)"
        return self

    def is_empty(self) -> bool:
        return not self._used()

    def _used(self) -> list[Candidate]:
        return [c for c in self.candidates if c.entry.decision == "used"]

    def _texts(self, placement: Placement) -> list[str]:
        return [c.text for c in self._placed(placement)]

    def _placed(self, placement: Placement) -> list[Candidate]:
        chosen = [c for c in self._used() if c.entry.placement == placement and c.at is None]
        return sorted(chosen, key=lambda c: c.order)


def kept_candidates(blocks: Blocks) -> list[Candidate]:
    """What earlier prompts of the conversation had, where they had it."""
    return [
        Candidate(item.again(), item.text, (-1.0,), (position, number), kept=item, at=position)
        for position, items in sorted(blocks.items())
        for number, item in enumerate(items)
    ]
