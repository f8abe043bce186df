"""Earlier askings of a question: the best matches of its words, which say nothing."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import numpy.typing as npt

from memos_vllm.cube.model import ASSISTANT, Item
from memos_vllm.plaintext.search.bm25 import Scores
from memos_vllm.plaintext.search.owner_index import OwnerIndex
from memos_vllm.plaintext.tokens import tokenize

_QUESTION_MARKS = ("?", "\uff1f", "\u061f", "\u055e", "\u037e", "\u1367", "\u2e2e")
_WORD = re.compile(r"\w+")
_LONGER, _SLACK = 2, 40
"""An earlier asking is at most so many times as long as the question, and so many characters more."""
_SHARE = 0.6
"""Least share of the question's words in an earlier asking of it."""
_LOOKED_AT = 128
"""Items that are compared with the question, best matches of its words first."""


def askings(question: str, index: OwnerIndex, words: Scores) -> npt.NDArray[np.bool_]:
    """(num_items,) whether an item asks the question and says nothing beyond it.

    Args:
        words: (num_items,) match of the question's words, 0 for none.
    """
    found = np.zeros(len(index.items), dtype=np.bool_)
    asked, is_reply = AskedQuestion(question), index.cues.is_reply
    for position in np.argsort(-words, kind="stable")[:_LOOKED_AT]:
        if words[position] <= 0:
            break
        item = index.items[position]
        is_said = not (is_reply[position] or item.sources or item.is_belief)
        found[position] = is_said and asked.asks(item.text)
    return found


class AskedQuestion:
    """The question of a conversation, and what asks it again."""

    def __init__(self, text: str) -> None:
        self._bare = _bare(text)
        self._words = Counter(tokenize(text))
        self._is_marked = is_marked_question(text)
        self._longest = _LONGER * len(text) + _SLACK

    def is_asked_by(self, item: Item) -> bool:
        """Whether an item asks the question and says nothing beyond it.

        The same words, whatever their case and marks; or a question whose content words are all among
        the question's. A statement of the same words is an answer: "My cat is called Miso."
        """
        if item.speaker == ASSISTANT or item.claim is not None:
            return False
        return self.asks(item.text)

    def asks(self, text: str) -> bool:
        """`is_asked_by`, of what a person said."""
        if len(text) > self._longest or not self._bare:
            return False
        is_marked = is_marked_question(text)
        if _bare(text) == self._bare:
            return is_marked or not self._is_marked
        if self._is_marked and not is_marked:
            return False
        words = Counter(tokenize(text))
        if not words:
            return False
        if is_marked:
            share = len(words) / (len(self._words) or 1)
            return words.keys() <= self._words.keys() and share >= _SHARE
        return words == self._words


def _bare(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def is_marked_question(text: str) -> bool:
    """Whether a text ends with a question mark of any script."""
    return text.rstrip().endswith(_QUESTION_MARKS)
