"""The part of a long text that matches a question: a window of neighbouring sentences.

A sentence counts by the words that it shares with the question, each by its rarity in the text: a word
that every sentence has decides nothing, in any language.  Scripts without spaces are compared by pairs
of characters.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence

from memos_vllm.plaintext.tokens import tokenize
from memos_vllm.prompt.sentences import sentences

_GAP = "\u2026"
_LEAST = 0.001
"""Weight of a word that every sentence has."""
_SENTENCE_END = re.compile(r"(?<=[\u3002\uff01\uff1f\u061f\u0964\u06d4])\s*")
# Thai, Lao, Myanmar, Khmer, Hiragana, Katakana, Han, Hangul
_UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+"
)

Count = Callable[[str], int]
"""Tokens of a text."""


def excerpt(text: str, question: str, most_tokens: int, count: Count) -> str:
    """The neighbouring sentences that match the question best; the text itself where it is short.

    Args:
        most_tokens: length of the excerpt, its marks of omission not counted.
    """
    if count(text) <= most_tokens:
        return text
    spans = _spans(text, most_tokens, count)
    scores = _scores([text[begin:end] for begin, end in spans], question)
    first = last = max(range(len(spans)), key=lambda place: (scores[place], -place))
    while True:
        beside = [place for place in (last + 1, first - 1) if 0 <= place < len(spans)]
        beside.sort(key=lambda place: -scores[place])  # of equal ones the sentence behind
        for place in beside:
            wider = min(first, place), max(last, place)
            if count(text[spans[wider[0]][0] : spans[wider[1]][1]]) <= most_tokens:
                first, last = wider
                break
        else:
            break
    shown = text[spans[first][0] : spans[last][1]]
    return f"{_GAP} " * (first > 0) + shown + f" {_GAP}" * (last + 1 < len(spans))


def _spans(text: str, most_tokens: int, count: Count) -> list[tuple[int, int]]:
    """Begin and end of each sentence; those that are too long are cut at words, else at characters."""
    spans: list[tuple[int, int]] = []
    end = 0
    for sentence in sentences(text):
        for piece in filter(None, _SENTENCE_END.split(sentence)):
            for part in _cut(piece, most_tokens, count):
                begin = text.find(part, end)
                if begin >= 0:
                    end = begin + len(part)
                    spans.append((begin, end))
    return spans or [(0, len(text))]


def _cut(sentence: str, most_tokens: int, count: Count) -> list[str]:
    if len(sentence) < 2 or count(sentence) <= most_tokens:
        return [sentence]
    middle = len(sentence) // 2
    space = sentence.rfind(" ", 1, middle + 1)
    at = space if space > 0 else middle
    halves = (sentence[:at].strip(), sentence[at:].strip())
    return [part for half in halves if half for part in _cut(half, most_tokens, count)]


def _scores(parts: Sequence[str], question: str) -> list[float]:
    wanted = _words(question)
    shared = [_words(part) & wanted for part in parts]
    holders = Counter(word for words in shared for word in words)
    weight = {word: _LEAST + math.log(len(parts) / held) for word, held in holders.items()}
    return [sum(weight[word] for word in words) for words in shared]


def _words(text: str) -> set[str]:
    words = set(tokenize(text))
    for run in _UNSPACED.findall(text):
        words.update(run[place : place + 2] for place in range(max(1, len(run) - 1)))
    return words
