"""Fit the weights of the signals to questions with known evidence.

The model is the search's own: a weighted sum. The loss is listwise (Cao et al., "Learning to Rank:
From Pairwise Approach to Listwise Approach", ICML 2007): the negative log-probability of the evidence
under a softmax over the items. Weights are never negative. The session prior depends on the weights
themselves, so the fit is done twice: with the prior of equal weights, then with that of the first fit.

Each family of data counts the same, whatever its number of questions, and so does each part of a family.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from memos_vllm.config.retrieval import RetrievalWeights
from memos_vllm.plaintext.search.fusion import (
    CHANNELS,
    LIFTS,
    Signals,
    channel_sum,
    session_scores,
)

NAMES = (*CHANNELS, "session_prior", *LIFTS)
_HARDEST = 150
"""Negatives per question: the items that score best."""
_PENALTY = 1e-3

Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """One question over one owner's items."""

    signals: Signals
    evidence: tuple[int, ...]
    """Positions of the items that hold the answer; at least one."""
    sources: tuple[str, ...] = ()
    """Turn that each item was made from."""
    family: str = ""
    part: str = ""


def fit(examples: Sequence[Example], fixed: Mapping[str, float] | None = None) -> RetrievalWeights:
    """Weights of maximum likelihood of the evidence.

    Args:
        fixed: weights that are not fitted, as for signals that the examples do not have.
    """
    weights = RetrievalWeights(**dict.fromkeys(NAMES, 1.0) | dict(fixed or {}))
    shares = _shares(examples)
    for _ in range(2):
        questions = [_features(example, weights) for example in examples]
        weights = _named(_solve(questions, shares, fixed or {}))
    return weights


def _shares(examples: Sequence[Example]) -> Floats:
    """(len(examples),) weight of each question; the sum is 1."""
    of_part = Counter((example.family, example.part) for example in examples)
    parts = Counter(family for family, _ in of_part)
    return np.array(
        [
            1 / (len(parts) * parts[example.family] * of_part[example.family, example.part])
            for example in examples
        ]
    )


def _features(example: Example, weights: RetrievalWeights) -> tuple[Floats, int]:
    """(features: (num_rows, len(NAMES)), evidence first; number of evidence rows)"""
    signals = example.signals
    total = channel_sum(signals, weights)
    prior = np.float32(signals.matched) * session_scores(signals.sessions, total)
    zeros = np.zeros_like(total)
    columns = [
        *(signals.channels.get(name, zeros) for name in CHANNELS),
        prior,
        *(signals.lifts[name] for name in LIFTS),
    ]
    order = [int(place) for place in np.argsort(-(total + prior), kind="stable")[:_HARDEST]]
    evidence = _best_passages(example, total)
    rows = [*evidence, *_less(order, example.evidence)]
    features = np.stack([column[rows] for column in columns], axis=1).astype(np.float64)
    return features, len(evidence)


def _best_passages(example: Example, scores: npt.NDArray[np.float32]) -> list[int]:
    """The best passage of each turn that holds the answer."""
    best: dict[str, int] = {}
    for place in example.evidence:
        source = example.sources[place] if example.sources else str(place)
        if source not in best or scores[place] > scores[best[source]]:
            best[source] = place
    return list(best.values())


def _less(positions: Sequence[int], evidence: Collection[int]) -> list[int]:
    return [position for position in positions if position not in evidence]


def _solve(
    questions: Sequence[tuple[Floats, int]], shares: Floats, fixed: Mapping[str, float]
) -> Floats:
    """(len(NAMES),): L-BFGS over the weighted loss of the questions."""
    rows = np.concatenate([features for features, _ in questions])
    lengths = np.array([len(features) for features, _ in questions])
    starts = np.r_[0, np.cumsum(lengths)[:-1]]
    target = np.concatenate(
        [np.r_[np.full(count, 1 / count), np.zeros(len(f) - count)] for f, count in questions]
    )
    per_row = np.repeat(shares, lengths)
    wanted = (target * per_row) @ rows

    def loss(weights: Floats) -> tuple[float, Floats]:
        scores = rows @ weights
        top = np.repeat(np.maximum.reduceat(scores, starts), lengths)
        exponents = np.exp(scores - top)
        sums = np.add.reduceat(exponents, starts)
        log_sums = np.log(sums) + top[starts]
        share = exponents / np.repeat(sums, lengths)
        value = shares @ log_sums - wanted @ weights + _PENALTY * weights @ weights
        gradient = (share * per_row) @ rows - wanted + 2 * _PENALTY * weights
        return float(value), gradient

    start = np.array([fixed.get(name, 1.0) for name in NAMES])
    bounds = [(fixed[name], fixed[name]) if name in fixed else (0, None) for name in NAMES]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds)
    solution: Floats = found.x
    return solution


def _named(solution: Floats) -> RetrievalWeights:
    return RetrievalWeights(
        **{name: round(float(weight), 3) for name, weight in zip(NAMES, solution, strict=True)}
    )
