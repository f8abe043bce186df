"""One score from four: lexical and dense, each over the item alone and behind its predecessor.

Scores are min-max normalised within an owner and averaged by weight, not fused by rank, which throws
away how much better the best is.  What each signal and lift adds: benchmarks/locomo_retrieval.  Two lifts follow: items of a session that has
other good items, and items whose speaker the question names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from memos_vllm.config import RetrievalWeights
from memos_vllm.operator.lexical import Scores
from memos_vllm.vault.items import IndexedItem

CHANNELS = ("lexical_turn", "lexical_window", "dense_turn", "dense_window")
_SESSION_TOP = 3


def fuse(
    question: str,
    items: Sequence[IndexedItem],
    channels: Mapping[str, Scores],
    weights: RetrievalWeights,
) -> Scores:
    """(num_items,) fused scores; 0 to 1 before the lifts.

    Args:
        channels: raw scores by the names in CHANNELS; NaN marks an item that a channel did not
            score and counts as that channel's minimum. A missing channel does not count at all.
    """
    total = np.zeros(len(items), dtype=np.float32)
    weight_sum = 0.0
    for name, scores in channels.items():
        weight = float(getattr(weights, name))
        total += weight * min_max(scores)
        weight_sum += weight
    if weight_sum:
        total /= weight_sum
    lifted = total.copy()
    if weights.session_prior:
        lifted += weights.session_prior * _session_scores(items, total)
    if weights.speaker_boost:
        lifted += weights.speaker_boost * _named_speakers(question, items)
    return lifted


def min_max(scores: Scores) -> Scores:
    """Scores mapped to 0..1; all zeros where there is nothing to tell apart."""
    known = scores[~np.isnan(scores)]
    if known.size == 0:
        return np.zeros_like(scores)
    low, high = float(known.min()), float(known.max())
    if high - low < 1e-9:
        return np.where(np.isnan(scores), 0.0, float(high > 0)).astype(np.float32)
    return (np.nan_to_num(scores, nan=low) - low) / (high - low)


def without_names(question: str, speakers: Iterable[str]) -> str:
    """The question less the speakers' names (and their `'s`); unchanged if nothing else is in it."""
    names = {word for speaker in speakers for word in re.findall(r"\w+", speaker) if len(word) > 1}
    if not names:
        return question
    pattern = re.compile(
        rf"\b(?:{'|'.join(map(re.escape, sorted(names)))})\b(?:['\u2019]s\b)?", re.IGNORECASE
    )
    rest = " ".join(pattern.sub(" ", question).split())
    return rest if re.search(r"\w", rest) else question


def _session_scores(items: Sequence[IndexedItem], scores: Scores) -> Scores:
    """For each item, how good its session is: mean of the session's best three, scaled to 0..1."""
    by_session: dict[str, list[int]] = {}
    for position, item in enumerate(items):
        by_session.setdefault(item.session or item.cube_id, []).append(position)
    result = np.zeros(len(items), dtype=np.float32)
    for positions in by_session.values():
        best = np.sort(scores[positions])[-_SESSION_TOP:]
        result[positions] = best.mean()
    return min_max(result)


def _named_speakers(question: str, items: Sequence[IndexedItem]) -> Scores:
    """1 where the question names the item's speaker; 0 everywhere when it names all or none."""
    words = {word.lower() for word in re.findall(r"\w+", question)}
    speakers = {item.speaker for item in items if item.speaker}
    named = {speaker for speaker in speakers if words & set(re.findall(r"\w+", speaker.lower()))}
    if not named or named == speakers:
        return np.zeros(len(items), dtype=np.float32)
    return np.array([item.speaker in named for item in items], dtype=np.float32)
