"""Turns and questions of the load: LoCoMo, or generated conversations without it."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from benchmarks.locomo_retrieval.dataset import Conversation, Question, Turn, load

T = TypeVar("T")

PEOPLE = 3
"""People whose memory is searched, a conversation each. The turns of all others are added."""
_SPEAKERS = ("Ada", "Ben")
_SESSIONS, _TURNS = 20, 25
_QUICK_TURNS = 60


@dataclasses.dataclass(frozen=True, slots=True)
class Workload:
    name: str
    stored: tuple[Conversation, ...]
    """Memories, one per person, stored before the measurement."""
    added: tuple[tuple[str, Turn], ...]
    """(person, turn) of people who are not searched, the people in turn."""
    scored: bool
    """Whether the questions come from a data set, so that recall is meaningful."""

    def questions(self) -> Iterator[tuple[str, Question]]:
        """(person whose memory is searched, question), the people in turn."""
        return _in_turn([(one.name, question) for question in one.questions] for one in self.stored)


def workload(data: Path | None, *, quick: bool) -> Workload:
    """Load LoCoMo, or generate text without `data`. Raises DataUnavailable."""
    if data is None:
        name, every = "generated", tuple(_generated(number) for number in range(PEOPLE + 3))
    else:
        dataset = load(data)
        name = f"LoCoMo locomo10.json, sha256 {dataset.sha256[:16]}"
        every = dataset.conversations
    stored, others = every[:PEOPLE], every[PEOPLE:] or every
    if quick:
        stored = (_beginning(stored[0]),)
    added = _in_turn([(f"new-{one.name}", turn) for turn in one.turns] for one in others)
    return Workload(name, stored, tuple(added), scored=data is not None)


def _in_turn(of_each: Iterable[Sequence[T]]) -> Iterator[T]:
    """Interleave: the first of each, then the second of each."""
    rounds = itertools.zip_longest(*of_each)
    return (one for each in rounds for one in each if one is not None)


def _beginning(conversation: Conversation) -> Conversation:
    turns = conversation.turns[:_QUICK_TURNS]
    there = {turn.id for turn in turns}
    questions = tuple(q for q in conversation.questions if there.issuperset(q.evidence))
    return dataclasses.replace(conversation, turns=turns, questions=questions)


def _generated(number: int) -> Conversation:
    """Sentences of made-up words, as long as LoCoMo's; a question repeats three words of a sentence."""
    chance = random.Random(number)
    words = ["".join(chance.choices("aeioubdklmnrst", k=6)) for _ in range(2000)]
    start = datetime(2024, 1, 1, tzinfo=UTC)
    turns = tuple(
        Turn(
            f"D{session}:{place}",
            f"session_{session}",
            _SPEAKERS[place % 2],
            " ".join(chance.choices(words, k=chance.randint(10, 35))),
            start + timedelta(days=session),
        )
        for session in range(1, _SESSIONS + 1)
        for place in range(1, _TURNS + 1)
    )
    questions = tuple(
        Question(f"What about {' '.join(turn.text.split()[2:5])}?", 4, (turn.id,))
        for turn in chance.sample(turns, 150)
    )
    return Conversation(f"generated-{number}", turns, questions)
