"""Repetitions among search results: earlier askings of the question, and the words of a better result.

A client that regenerates, monitors or evaluates asks one question many times.  Each asking is stored,
and is the best match of the next one, though it says nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from memos_vllm.plaintext.search.asking import AskedQuestion, is_marked_question
from memos_vllm.plaintext.search.search import Found, SearchResult

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
        is_asking = is_marked_question(item.text) and asked.is_asked_by(item)
        (repeated if text in seen or is_asking else new).append(result)
        seen.add(text)
    return new, repeated


def normal(text: str) -> str:
    return " ".join(text.split()).casefold()
