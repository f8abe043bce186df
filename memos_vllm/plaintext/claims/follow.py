"""Find the older statements of a person that a newer one may replace, in any words and any language.

No list of words for changes takes part: a logistic regression over what two sentences have in common (meaning
above what is usual for their language, letters, words by rarity, the relatives that they name) says how
likely both give a value of the same thing.  The consequence is a mark, "perhaps until", and the newer
statement in front; `claims.change` decides what ends.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from cachetools import LRUCache

from memos_vllm.plaintext.claims.subjects import (
    changes_slot_of,
    is_about_now,
    relatives,
    without_relatives,
)
from memos_vllm.plaintext.embed.encoder import Vectors
from memos_vllm.plaintext.statements.features import (
    Features,
    bucket,
    content,
    grams,
    has_no_spaces,
)
from memos_vllm.plaintext.statements.reader import Statement, StatementReader

Integers = npt.NDArray[np.int64]
FEATURES = (
    *("meaning", "letters", "overlap", "share_of_older", "share_of_newer"),
    *("same_relatives", "other_relatives", "changes_its_slot"),
    *("older_is_statement", "newer_is_statement"),
)
MOST = 3
"""Older statements that one sentence is linked to."""
_OF_BEST = 0.3
"""Least share of the likeliest one's probability."""
_STANDS_OUT, _TIMES = 0.2, 2.0
"""Least share of the threshold for a sentence that is far likelier than all others, and how many times."""
_LEAST_STATEMENT = 0.01
"""Probability below which a sentence states nothing, but asks or orders."""
_CACHED = 1024
_LONG_WORD = 5
"""Characters from which on a word counts fully: short ones are function words in most languages."""
_ODDS = 3.0


@dataclasses.dataclass(frozen=True, slots=True)
class Side:
    """What is compared of one sentence."""

    text: str
    statement: Statement
    vector: Vectors | None
    usual: float
    """Cosine of the sentence with the sentences of its language."""
    letters: tuple[Integers, Features]
    """Positions and values of its n-grams."""
    words: dict[str, float]
    """Content words with their weight."""
    relatives: frozenset[str]

    @property
    def odds(self) -> float:
        share = min(max(self.statement.probability, 1e-4), 1 - 1e-4)
        return math.log(share / (1 - share)) / _ODDS


class FollowJudge:
    def __init__(self, reader: StatementReader) -> None:
        self._reader = reader
        self._known: LRUCache[str, Side] = LRUCache(_CACHED)

    def states(self, statement: Statement) -> bool:
        """Whether a sentence may give a value of something, and does not ask or order."""
        return statement.probability >= _LEAST_STATEMENT and is_about_now(statement.text)

    def linked(
        self, olds: Sequence[tuple[str, str]], new: str, stands_out: bool
    ) -> list[tuple[int, float]]:
        """Older statements on the same thing, by position, with the probability; the likeliest first.

        Args:
            olds: (source, sentence)
            stands_out: the newer one tells of a change, and nothing that it replaces is known: where none is
                likely enough, what is far likelier than all other messages is meant.
        """
        if not olds or not is_about_now(new):
            return []
        new_side, *sides = self.sides([new, *(text for _, text in olds)])
        found = self.probabilities(sides, new_side)
        order = sorted(range(len(olds)), key=lambda i: -found[i])
        best, threshold = order[0], self._reader.weights.link_threshold
        if stands_out and found[best] < threshold:
            others = [found[i] for i in order if olds[i][0] != olds[best][0]]
            is_far = found[best] >= max(_STANDS_OUT * threshold, _TIMES * max(others, default=0.0))
            return [(best, found[best])] if is_far else []
        least = max(threshold, _OF_BEST * found[best])
        return [(i, found[i]) for i in order if found[i] >= least][:MOST]

    def probabilities(self, olds: Sequence[Side], new: Side) -> list[float]:
        """That each older sentence and the newer one are on the same thing."""
        weights = self._reader.weights
        logits = np.stack([features(old, new) for old in olds]) @ weights.link + weights.link_bias
        return [float(each) for each in 1 / (1 + np.exp(-np.clip(logits, -50, 50)))]

    def sides(self, texts: Sequence[str]) -> list[Side]:
        """What is compared of each sentence; those that are new are embedded together."""
        known = {text: self._known[text] for text in texts if text in self._known}
        missing = [text for text in dict.fromkeys(texts) if text not in known]
        vectors = self._reader.vectors(missing)
        for i, statement in enumerate(self._reader.read_vectors(missing, vectors)):
            side = self._side(statement, None if vectors is None else vectors[i])
            known[side.text] = side
            if vectors is not None or not self._reader.weights.uses_vectors:
                self._known[side.text] = side
        return [known[text] for text in texts]

    def _side(self, statement: Statement, vector: Vectors | None) -> Side:
        weights = self._reader.weights
        counts = grams(statement.text)
        positions = np.flatnonzero(counts)
        usual = 0.0
        if vector is not None and len(weights.usual):
            usual = float((weights.usual @ vector).max())
        return Side(
            statement.text,
            statement,
            vector,
            usual,
            (positions.astype(np.int64), counts[positions]),
            {
                word: _weight(word, float(weights.rarity[bucket(word)]))
                for word in content(without_relatives(statement.text))
            },
            relatives(statement.text),
        )


def features(old: Side, new: Side) -> Features:
    """(len(FEATURES),)"""
    meaning = 0.0
    if old.vector is not None and new.vector is not None:
        usual = (old.usual + new.usual) / 2
        meaning = (float(old.vector @ new.vector) - usual) / max(1 - usual, 1e-3)
    _, left, right = np.intersect1d(old.letters[0], new.letters[0], True, return_indices=True)
    before, after = (sum(side.words.values()) + 1e-6 for side in (old, new))
    shared = sum(weight for word, weight in old.words.items() if word in new.words)
    return np.array(
        [
            meaning,
            float(old.letters[1][left] @ new.letters[1][right]),
            shared / math.sqrt(before * after),
            shared / before,
            shared / after,
            old.relatives == new.relatives,
            bool(old.relatives and new.relatives) and not old.relatives & new.relatives,
            changes_slot_of(new.text, old.text),
            old.odds,
            new.odds,
        ],
        dtype=np.float32,
    )


def _weight(word: str, rarity: float) -> float:
    length = 2 * len(word) if has_no_spaces(word) else len(word)
    return rarity * min(1.0, length / _LONG_WORD)
