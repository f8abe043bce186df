"""Score fusion: one score per item from lexical, dense and rule-based signals.

Six channels are averaged by weight: lexical and dense, each over the item alone and over its window,
and coverage of the question's tokens near the item and in its session.  The first four are min-max
normalised within an owner; rank fusion would lose the distances between scores.  Lifts are added for
items of a session with other good items, by the speaker or from the time that the question names, and
with a time where the question asks when; items that are questions get a penalty.
benchmarks/locomo_retrieval measures the effect of each.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping

import numpy as np

from memos_vllm.config.retrieval import RetrievalWeights
from memos_vllm.plaintext.english.lexicon import asks_when, named_time
from memos_vllm.plaintext.search.bm25 import Integers, Scores
from memos_vllm.plaintext.search.owner_index import OwnerIndex

CHANNELS = (
    *("lexical_turn", "lexical_window", "dense_turn", "dense_window"),
    *("coverage", "session_coverage"),
)
LIFTS = ("speaker_boost", "time_boost", "when_boost", "question_penalty")
_SHARES = ("coverage", "session_coverage")  # 0 to 1 already, not normalised
_SESSION_TOP = 3


@dataclasses.dataclass(frozen=True, slots=True)
class Signals:
    """Signals of each item of an owner, before weighting; all (num_items,)."""

    channels: Mapping[str, Scores]
    """0 to 1, by the names in CHANNELS."""
    lifts: Mapping[str, Scores]
    """By the names in LIFTS; -1 to 1, mostly 0."""
    sessions: Integers


def signals_of(question: str, index: OwnerIndex, channels: Mapping[str, Scores]) -> Signals:
    """Normalise the channels and compute the lifts.

    Args:
        channels: raw scores by the names in CHANNELS; NaN marks an item without a score and counts as
            the channel's minimum. A missing channel does not count at all.
    """
    scaled = {
        name: scores if name in _SHARES else min_max(scores) for name, scores in channels.items()
    }
    zeros = np.zeros(len(index.items), dtype=np.float32)
    cues = index.cues
    lifts = {
        "speaker_boost": _named_speakers(question, index),
        "time_boost": _at_named_time(question, index),
        "when_boost": cues.names_time if asks_when(question) else zeros,
        "question_penalty": -cues.is_question,
    }
    return Signals(scaled, lifts, cues.session)


def fuse(signals: Signals, weights: RetrievalWeights) -> Scores:
    """(num_items,) fused scores; 0 to 1 before the lifts."""
    fused = channel_mean(signals, weights)
    if weights.session_prior:
        prior = session_scores(signals.sessions, fused)
        fused = fused + np.float32(weights.session_prior) * prior
    for name, lift in signals.lifts.items():
        fused = fused + np.float32(getattr(weights, name)) * lift
    return fused


def channel_mean(signals: Signals, weights: RetrievalWeights) -> Scores:
    """(num_items,) weighted mean of the channels present."""
    total = np.zeros(len(signals.sessions), dtype=np.float32)
    weight_sum = 0.0
    for name, scores in signals.channels.items():
        weight = float(getattr(weights, name))
        total += weight * scores
        weight_sum += weight
    return total / np.float32(weight_sum) if weight_sum else total


def session_scores(sessions: Integers, scores: Scores) -> Scores:
    """Score of each item's session: mean of the session's best three items, scaled to 0..1.

    Args:
        sessions: (num_items,) a number for each session.
    """
    if not len(sessions):
        return scores
    order = np.lexsort((-scores, sessions))
    grouped = sessions[order]
    starts = np.flatnonzero(np.r_[True, grouped[1:] != grouped[:-1]])
    lengths = np.diff(np.r_[starts, len(grouped)])
    rank = np.arange(len(grouped)) - np.repeat(starts, lengths)
    best = np.where(rank < _SESSION_TOP, scores[order], 0.0)
    means = np.add.reduceat(best, starts) / np.minimum(lengths, _SESSION_TOP)
    result = np.empty(len(scores), dtype=np.float32)
    result[order] = np.repeat(means, lengths)
    return min_max(result)


def min_max(scores: Scores) -> Scores:
    """Min-max normalisation to 0..1; all equal scores become 0, or 1 if positive."""
    known = scores[~np.isnan(scores)]
    if known.size == 0:
        return np.zeros_like(scores)
    low, high = float(known.min()), float(known.max())
    if high - low < 1e-9:
        return np.where(np.isnan(scores), 0.0, float(high > 0)).astype(np.float32)
    return (np.nan_to_num(scores, nan=low) - low) / (high - low)


def without_names(question: str, speakers: Iterable[str]) -> str:
    """Remove the speakers' names (and their `'s`); a question of names only is unchanged."""
    names = {word for speaker in speakers for word in re.findall(r"\w+", speaker) if len(word) > 1}
    if not names:
        return question
    pattern = re.compile(
        rf"\b(?:{'|'.join(map(re.escape, sorted(names)))})\b(?:['\u2019]s\b)?", re.IGNORECASE
    )
    rest = " ".join(pattern.sub(" ", question).split())
    return rest if re.search(r"\w", rest) else question


def _named_speakers(question: str, index: OwnerIndex) -> Scores:
    """1 where the question names the item's speaker; 0 everywhere when it names all or none."""
    words = {word.lower() for word in re.findall(r"\w+", question)}
    named = [bool(words & set(re.findall(r"\w+", speaker.lower()))) for speaker in index.speakers]
    if not any(named) or all(named):
        return np.zeros(len(index.items), dtype=np.float32)
    by_speaker = np.array([*named, False], dtype=np.float32)  # -1: no speaker
    return by_speaker[index.cues.speaker]


def _at_named_time(question: str, index: OwnerIndex) -> Scores:
    """0 to 1: match of an item's time with the year, month and day that the question names.

    A lift and no filter: an item about March may be of April.
    """
    asked, cues = named_time(question), index.cues
    score = np.zeros(len(index.items), dtype=np.float32)
    if asked is None:
        return score
    if asked.year is not None:
        score += 0.2 * (cues.year == asked.year)
    if asked.month is not None:
        same_month = cues.month == asked.month
        score += 0.4 * same_month
        if asked.day is not None:
            days_apart = np.abs(cues.day - asked.day)
            score += 0.4 * same_month * np.clip(1 - days_apart / 7, 0, 1)
    return score.astype(np.float32)
