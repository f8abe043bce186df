"""Score fusion: one score per item from lexical, dense and rule-based signals.

Every signal keeps an absolute meaning, so that a channel with nothing to say says nothing: a lexical score
is the share of the question's information that an item has, a dense score the number of standard deviations
that an item's cosine stands above unrelated texts.  (Min-max scaling, as before, made 1 of the best of a
set of weak matches.)  What the person's words match of the question decides how much each kind counts:

    matched        largest share of the question's information in one item, 0 to 1
    dense          counts by (1 - matched)²: meaning decides where words do not
    windows, near, session    count by matched: the neighbours of a match are good where there is one

Lifts are added for items by the speaker or from the time that the question names, and with a time where
the question asks when; an assistant's replies and items that are questions get a penalty, as they seldom
say what the person said.  benchmarks/retrieval_general fits the weights and reports them on data sets left
out whole.

The fused scores decide the best results. Behind them the place of an item depends on its session, too:
what was said beside the best match of the question's words, or of its meaning, is likelier evidence than a
lone weak match. Three rankings are joined by reciprocal rank fusion (Cormack et al., SIGIR 2009).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

from memos_vllm.config.retrieval import RetrievalWeights
from memos_vllm.plaintext.embed.model import Background
from memos_vllm.plaintext.english.lexicon import asks_for_reply, asks_when, named_time
from memos_vllm.plaintext.search.bm25 import Integers, Scores
from memos_vllm.plaintext.search.owner_index import OwnerIndex

LEXICAL = ("lexical_turn", "lexical_window", "coverage", "near_coverage")
DENSE = ("dense_turn", "dense_window")
CHANNELS = (*LEXICAL, *DENSE)
LIFTS = (
    *("speaker_boost", "time_boost", "when_boost"),
    *("question_penalty", "reply_penalty", "reply_boost"),
)
_SESSION_TOP = 3
_PRIOR_ITEMS = 30
"""Weight of the background in the mean and deviation of cosines, in items."""
_LEAST_DEVIATION = 0.03
_HEAD = 5
"""Best items, which keep their places."""
_RANK_CONSTANT = 60
"""Of reciprocal rank fusion, as its authors chose it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Signals:
    """Signals of each item of an owner, before weighting; all (num_items,)."""

    channels: Mapping[str, Scores]
    """By the names in CHANNELS, scaled by how much of the question words match."""
    lifts: Mapping[str, Scores]
    """By the names in LIFTS; -1 to 1, mostly 0."""
    sessions: Integers
    """Number of each item's session, from 0."""
    matched: float
    """Largest share of the question's information in one item that is no reply."""
    is_reply: Scores
    """1 for an assistant's reply, else 0."""
    words: Scores
    """Information that the item shares with the question."""
    meaning: Scores | None
    """Standing of the item's cosine, not scaled; None: there are no vectors."""


def signals_of(
    question: str,
    index: OwnerIndex,
    channels: Mapping[str, Scores],
    background: Background | None = None,
) -> Signals:
    """Scale the channels and compute the lifts.

    Args:
        channels: raw scores by the names in CHANNELS: shares, and cosines. NaN marks an item without a
            score, which counts as an unrelated text. A missing channel does not count at all.
        background: cosines of the question with unrelated texts; None: not known.
    """
    cues = index.cues
    matched = _matched(channels.get("coverage"), cues.is_reply)
    scale = {
        "dense_turn": (1 - matched) ** 2,
        **dict.fromkeys(("dense_window", "lexical_window", "near_coverage"), matched),
    }
    scaled = {}
    for name, scores in channels.items():
        meant = standing(scores, background) if name in DENSE else scores
        scaled[name] = np.float32(scale.get(name, 1.0)) * meant
    zeros = np.zeros(len(index.items), dtype=np.float32)
    lifts = {
        "speaker_boost": _named_speakers(question, index),
        "time_boost": _at_named_time(question, index),
        "when_boost": cues.names_time if asks_when(question) else zeros,
        "question_penalty": -cues.is_question,
        "reply_penalty": -cues.is_reply,
        "reply_boost": cues.is_reply if asks_for_reply(question) else zeros,
    }
    dense = channels.get("dense_turn")
    return Signals(
        channels=scaled,
        lifts=lifts,
        sessions=cues.session,
        matched=matched,
        is_reply=cues.is_reply,
        words=channels["lexical_turn"],
        meaning=None if dense is None else standing(dense, background),
    )


def fuse(
    signals: Signals, weights: RetrievalWeights, counted: npt.NDArray[np.bool_] | None = None
) -> Scores:
    """(num_items,) scores that order the items.

    The values are those of `weighted_sum`. Behind the best items they are dealt out again, highest first,
    in the order that the items' sessions give: an item has the score of its place.

    Args:
        counted: (num_items,) items that take part in it; the others keep their values, and say nothing for
            their sessions. None: all.
    """
    fused = weighted_sum(signals, weights)
    if counted is None:
        counted = np.ones(len(fused), dtype=np.bool_)
    best = np.argsort(-fused, kind="stable")
    best = best[counted[best]]
    behind = best[_HEAD:]
    reciprocal = 1 / (_RANK_CONSTANT + np.arange(_HEAD + 1.0, len(best) + 1.0))
    for ranks in _session_ranks(signals, best):
        reciprocal += 1 / (_RANK_CONSTANT + ranks[signals.sessions[behind]])
    scores = fused.copy()
    scores[behind[np.argsort(-reciprocal, kind="stable")]] = fused[behind]
    return scores


def weighted_sum(signals: Signals, weights: RetrievalWeights) -> Scores:
    """(num_items,) weighted sum of channels, sessions and lifts."""
    fused = channel_sum(signals, weights)
    if weights.session_prior:
        prior = session_scores(signals.sessions, fused)
        fused = fused + np.float32(weights.session_prior * signals.matched) * prior
    for name, lift in signals.lifts.items():
        fused = fused + np.float32(getattr(weights, name)) * lift
    return fused


def channel_sum(signals: Signals, weights: RetrievalWeights) -> Scores:
    """(num_items,) weighted sum of the channels present."""
    total = np.zeros(len(signals.sessions), dtype=np.float32)
    for name, scores in signals.channels.items():
        total += np.float32(getattr(weights, name)) * scores
    return total


def standing(cosines: Scores, background: Background | None) -> Scores:
    """Standard deviations of each cosine above the background; NaN becomes 0.

    The background is that of the owner's items, drawn towards that of unrelated texts: few items say
    little about what is usual among them.
    """
    known = cosines[~np.isnan(cosines)]
    if background is None:
        if known.size < 2:
            return np.zeros_like(cosines)
        background = Background(float(known.mean()), float(known.std()))
    usual, deviation = background.mean, max(background.deviation, _LEAST_DEVIATION)
    count, mean = known.size, float(known.mean()) if known.size else usual
    centre = (count * mean + _PRIOR_ITEMS * usual) / (count + _PRIOR_ITEMS)
    spread = count * (float(known.var()) + (mean - centre) ** 2) if count else 0.0
    spread += _PRIOR_ITEMS * (deviation**2 + (usual - centre) ** 2)
    width = max(float(np.sqrt(spread / (count + _PRIOR_ITEMS))), 1e-6)
    standings: Scores = ((np.nan_to_num(cosines, nan=centre) - centre) / width).astype(np.float32)
    return standings


def _matched(coverage: Scores | None, is_reply: Scores) -> float:
    """Largest coverage among items that are no replies; among all, where there are only replies."""
    if coverage is None or not len(coverage):
        return 0.0
    own = coverage[is_reply == 0]
    return float(own.max() if own.size else coverage.max())


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


def _session_ranks(
    signals: Signals, counted: npt.NDArray[np.intp]
) -> Iterator[npt.NDArray[np.float64]]:
    """(num_sessions,) ranks of sessions, from 1: by their best match of words, and of meaning.

    The words of replies do not count: they repeat the question's words, whatever it is about.

    Args:
        counted: positions of the items that count.
    """
    own_words = np.where(signals.is_reply > 0, 0, signals.words)
    for scores in (own_words, signals.meaning):
        if scores is not None and len(counted):
            best = np.full(int(signals.sessions.max()) + 1, -np.inf, dtype=np.float32)
            np.maximum.at(best, signals.sessions[counted], scores[counted])
            yield _ranks(best)


def _ranks(scores: Scores) -> npt.NDArray[np.float64]:
    """(n,) rank of each score, from 1 for the highest; equal scores share the best of their ranks."""
    ascending = np.sort(scores)
    higher = len(scores) - np.searchsorted(ascending, scores, side="right")
    return higher.astype(np.float64) + 1


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
