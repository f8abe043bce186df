"""Prompts of the questions.

The last message holds the question alone, because memory is searched for it; instructions, options and the
date are in the system message.  Given turns are placed and quoted like retrieved items, so that the ways
differ in the turns alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.generation.dataset import LETTERS, Question, Turn
from memos_vllm.prompt import layout

GREETING: list[dict[str, Any]] = [{"role": "user", "content": "Hello, how are you today?"}]
# No example of a date: a small model repeats it as its answer, and a date of the history would be right.
SHORT = (
    "Answer the question with a short phrase of a few words, not with a sentence. Use the words of the "
    "conversation where you can. Work dates out from the day on which something was said, and write "
    "them as day, month and year, the month in words."
)
CHOICE = (
    "Which of these replies suits this person best, given what is known of them? Answer with its letter "
    "in brackets and nothing else."
)
OPEN = "You are a helpful assistant. Answer in a few sentences."


def messages(question: Question, given: Sequence[Turn] = ()) -> list[dict[str, Any]]:
    """Messages of a question, with the given turns as memory."""
    asked = [
        {"role": "system", "content": _instructions(question)},
        {"role": "user", "content": question.text},
    ]
    return layout.place(asked, [], [quoted(turn) for turn in given])


def max_tokens(question: Question) -> int:
    """Limit of the reply, in tokens."""
    if question.scored_by == "letter":
        return 16
    return 200 if question.scored_by == "judge" else 48


def quoted(turn: Turn) -> str:
    return layout.quote_item(turn.item(), lambda text: text)


def _instructions(question: Question) -> str:
    parts = [f"Today is {question.asked}."] if question.asked else []
    if question.scored_by == "letter":
        options = zip(LETTERS, question.options, strict=False)
        parts += [CHOICE, *(f"({letter}) {option}" for letter, option in options)]
    else:
        parts.append(OPEN if question.scored_by == "judge" else SHORT)
    return "\n".join(parts)
