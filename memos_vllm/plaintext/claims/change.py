"""Judge whether a newer statement of a person replaces an older one.

    same         both say one thing
    updates      the newer one gives another value, or ends it: "I moved to Madrid" after "I live in Paris"
    contradicts  both cannot be true, and neither tells of a change
    unrelated    both can be true

`PairJudge` judges without a model, precision first: it retires a statement only where the newer one tells
of a change, is about the same subject, and shares meaning and rare words with it.  What it is not certain
of is marked (`claims.follow`).  A model may judge as well: see `learning.beliefs`.
"""

from __future__ import annotations

import math
import re
from typing import Literal

import numpy as np
from cachetools import LRUCache

from memos_vllm.cube.model import Standing, plain
from memos_vllm.plaintext.claims.subjects import (
    changes_slot_of,
    is_about_now,
    relatives,
    tells_change,
    without_relatives,
    without_repeats,
)
from memos_vllm.plaintext.statements.features import Features, bucket, content
from memos_vllm.plaintext.statements.reader import Statement, StatementReader

Verdict = Literal["same", "updates", "contradicts", "unrelated"]
FEATURES = (
    *("cosine", "overlap", "containment", "shared_rare", "older_tells_change", "both_numbers"),
    *("older_is_statement", "cosine_times_containment", "changes_its_slot"),
)
_NO_STATEMENT = 0.1
"""Probability below which a sentence states nothing: a greeting, a request."""
_DIGIT = re.compile(r"\d")
_CACHED = 512
_NAMED = 0.6
"""Share of a constraint's words, by rarity, that its end must repeat."""


class PairJudge:
    def __init__(self, reader: StatementReader) -> None:
        self._reader = reader
        self._known: LRUCache[str, tuple[Statement, Features | None]] = LRUCache(_CACHED)

    def judge(self, old: str, new: str) -> Verdict:
        if plain(old) == plain(new) or self._repeats(old, new):
            return "same"
        if not tells_change(new) or not is_about_now(new) or not self.may_replace(old, new):
            return "unrelated"
        return "updates" if self.probability(old, new) >= self._threshold else "unrelated"

    def _repeats(self, old: str, new: str) -> bool:
        """Whether the newer sentence says nothing but the older one once more: "Hello again." """
        rest = without_repeats(new)
        if rest == new or tells_change(rest):
            return False
        before, after = content(without_repeats(old)), content(rest)
        if before == after:
            return True
        return after < before and self._read(old)[0].probability < _NO_STATEMENT

    def may_replace(self, old: str, new: str) -> bool:
        """Whether both are about the same person, and the newer names what an older constraint is about.

        "I'm not allergic to penicillin after all" leaves an allergy to cats alone, and "I eat meat again"
        ends no diet: a constraint that is wrongly dropped does harm.
        """
        if relatives(old) != relatives(new):
            return False
        statement, _ = self._read(old)
        if statement.standing is not Standing.CONSTRAINT:
            return True
        rarity = self._reader.weights.rarity
        named = {word: float(rarity[bucket(word)]) for word in content(old)}
        shared = sum(named[word] for word in named.keys() & content(new))
        return shared >= _NAMED * sum(named.values())

    def probability(self, old: str, new: str) -> float:
        """That the newer sentence replaces the older one, given that it tells of a change."""
        weights = self._reader.weights
        logit = float(weights.pair @ self.features(old, new)) + weights.pair_bias
        return 1 / (1 + math.exp(-max(-50.0, min(50.0, logit))))

    def features(self, old: str, new: str) -> Features:
        """(len(FEATURES),)"""
        rarity = self._reader.weights.rarity
        before, after = (content(without_relatives(text)) for text in (old, new))
        weight = {word: float(rarity[bucket(word)]) for word in before | after}
        shared = [weight[word] for word in before & after]
        left, right = (sum(weight[word] for word in side) + 1e-6 for side in (before, after))
        (statement, one), (_, other) = self._read(old), self._read(new)
        cosine = 0.0 if one is None or other is None else float(one @ other)
        containment = sum(shared) / min(left, right)
        return np.array(
            [
                cosine,
                sum(shared) / math.sqrt(left * right),
                containment,
                max(shared, default=0.0),
                tells_change(old),
                _DIGIT.search(old) is not None and _DIGIT.search(new) is not None,
                statement.probability,
                cosine * containment,
                changes_slot_of(new, old),
            ],
            dtype=np.float32,
        )

    @property
    def _threshold(self) -> float:
        return self._reader.weights.pair_threshold

    def _read(self, text: str) -> tuple[Statement, Features | None]:
        if (known := self._known.get(text)) is None:
            vectors = self._reader.vectors([text])
            (statement,) = self._reader.read_vectors([text], vectors)
            known = statement, None if vectors is None else vectors[0]
            self._known[text] = known
        return known
