"""Equivalence of two items: the same statement in other forms or another order of its words.

Content words must agree after stemming, and so must names, numbers and negation.  Vectors cannot
decide: with MiniLM "repaired the kitchen sink" and "repaired the bathroom sink" have a cosine of 0.94,
"sold the old car" and "bought the old car" 0.97, but many paraphrases only 0.92.  A false match loses a
fact; a missed one costs tokens.
"""

from __future__ import annotations

import re

from memos_vllm.cube.entities import entities_of
from memos_vllm.cube.model import Item, plain
from memos_vllm.plaintext.tokens import tokenize

_NUMBER = re.compile(r"\d[\d.,:/-]*\d|\d")
_NEGATION = re.compile(
    r"\b(?:not|no|never|none|nobody|nothing|without|neither|nor|cannot)\b|n['\u2019]t\b|\bno longer\b",  # prose: an English negation
    re.IGNORECASE,
)


def could_be_one(one: Item, other: Item) -> bool:
    """Whether kind, subject, speaker, names, numbers, negation and time agree."""
    if one.type is not other.type or one.speaker != other.speaker:
        return False
    left, right = one.claim, other.claim
    if (left is None) != (right is None):
        return False
    if left is not None and right is not None:
        if plain(left.subject) != plain(right.subject) or left.attribute != right.attribute:
            return False
        if (left.begins, left.ends) != (right.begins, right.ends):
            return False
    if bool(_NEGATION.search(one.text)) != bool(_NEGATION.search(other.text)):
        return False
    if sorted(_NUMBER.findall(one.text)) != sorted(_NUMBER.findall(other.text)):
        return False
    names, others = ({each.key for each in entities_of(item)} for item in (one, other))
    return names == others


def says_the_same(one: Item, other: Item) -> bool:
    """Whether the stems agree, too: "alice went hiking in Rome", "In Rome, alice hiked"."""
    return could_be_one(one, other) and set(tokenize(one.text)) == set(tokenize(other.text))
