"""Repetitions among search results: earlier askings of the question, and the words of a better result.

A client that regenerates, monitors or evaluates asks one question many times.  Each asking is stored,
and is the best match of the next one, though it says nothing.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Sequence

from memos_vllm.cube.model import ASSISTANT, Item
from memos_vllm.plaintext.search.search import Found, SearchResult
from memos_vllm.plaintext.tokens import tokenize

_QUESTION_MARKS = ("?", "\uff1f", "\u061f", "\u055e", "\u037e", "\u1367", "\u2e2e")
_WORD = re.compile(r"\w+")
_LONGER, _SLACK = 2, 40
"""An earlier asking is at most so many times as long as the question, and so many characters more."""
_SHARE = 0.6
"""Least share of the question's words in an earlier asking of it."""
_DEEPER = 4
"""Factor of the results that are ranked, where too many of them are repetitions."""


def repeats_last(search: Callable[[int], SearchResult], question: str, top_k: int) -> SearchResult:
    """The best results, with repetitions behind all that say something new.

    Args:
        search: the best so many results.
    """
    count = top_k
    while True:
        result = search(count)
        new, repeated = _split(result.found, question)
        if len(new) >= top_k or not repeated or len(result.found) < count:
            return dataclasses.replace(result, found=[*new, *repeated][:top_k])
        count *= _DEEPER


def _split(results: Sequence[Found], question: str) -> tuple[list[Found], list[Found]]:
    """(results that say something new, repetitions), each in their order."""
    asked, seen = AskedQuestion(question), set[str]()
    new: list[Found] = []
    repeated: list[Found] = []
    for result in results:
        item = result.recalled.item
        text = normal(item.text)
        # Without a question mark it may be a statement that a search by its words looks for.
        is_asking = _is_question(item.text) and asked.is_asked_by(item)
        (repeated if text in seen or is_asking else new).append(result)
        seen.add(text)
    return new, repeated


def normal(text: str) -> str:
    return " ".join(text.split()).casefold()


class AskedQuestion:
    """The question of a conversation, and what asks it again."""

    def __init__(self, text: str) -> None:
        self._bare = _bare(text)
        self._words = Counter(tokenize(text))
        self._is_marked = _is_question(text)
        self._longest = _LONGER * len(text) + _SLACK

    def is_asked_by(self, item: Item) -> bool:
        """Whether an item asks the question and says nothing beyond it.

        The same words, whatever their case and marks; or a question whose content words are all among
        the question's. A statement of the same words is an answer: "My cat is called Miso."
        """
        text = item.text
        if item.speaker == ASSISTANT or item.claim is not None or len(text) > self._longest:
            return False
        if not self._bare:
            return False
        is_marked = _is_question(text)
        if _bare(text) == self._bare:
            return is_marked or not self._is_marked
        words = Counter(tokenize(text))
        if not words:
            return False
        if is_marked:
            share = len(words) / (len(self._words) or 1)
            return words.keys() <= self._words.keys() and share >= _SHARE
        return words == self._words and not self._is_marked


def _bare(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _is_question(text: str) -> bool:
    return text.rstrip().endswith(_QUESTION_MARKS)
