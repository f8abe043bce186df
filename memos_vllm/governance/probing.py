"""Timing attacks on a running server: can a stranger tell from the time to first token what another has sent?

One round of an attack: the victim sends a text that no request has had before; the attacker sends a guess that
is this text and a guess that is not, in random order; then the victim sends its text again.  The area under
the ROC curve (AUC) of the attacker's two kinds of guess is the share of pairs in which the right guess is the
faster one: 0.5 where the times tell nothing.  The victim's repeat against its first request is the control: a
measurement that does not see the victim's own hit would see no leak either.
"""

from __future__ import annotations

import dataclasses
import random
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from memos_vllm.errors import BadRequest, Unavailable

LEVEL = 0.99
"""Of the intervals: of a hundred findings without a leak, one is a false alarm."""
LEAST_PROBES = 8
_RESAMPLES = 2000
_WORDS = (
    "river",
    "copper",
    "violin",
    "winter",
    "harbor",
    "lantern",
    "garden",
    "bridge",
    "silver",
    "island",
)


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """One request."""

    seconds: float
    """To the first token, or to the reply of a route without tokens."""
    cached_tokens: int | None = None
    """As the server reports them; None: it does not."""
    loaded: int = 0
    """Cubes whose stored KV was loaded, and other hits that the reply names."""


class NotStored(Unavailable):
    """The server stores no KV: there is nothing to attack."""


Send = Callable[[str], Sample]


@dataclasses.dataclass(frozen=True, slots=True)
class Attack:
    name: str
    victim: Send
    attacker: Send
    settle: Callable[[str], None] = lambda _text: None
    """Waits until what the victim sent is stored."""


@dataclasses.dataclass(frozen=True, slots=True)
class Separation:
    """How well times tell two kinds of request apart."""

    auc: float
    low: float
    high: float

    @property
    def is_chance(self) -> bool:
        return self.low <= 0.5 <= self.high


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    attack: str
    probes: int
    attacker: Separation
    control: Separation
    attacker_cached_tokens: int
    attacker_hits: int
    """Guesses whose reply names a hit."""
    control_hits: int
    """The victim's repeats whose reply names a hit."""
    reports_hits: bool
    """Whether replies name hits at all."""
    right_ms: float
    """Median time of the right guesses."""
    wrong_ms: float
    first_ms: float
    """Median time of the victim's first requests."""
    repeat_ms: float

    @property
    def leaks(self) -> bool:
        return self.attacker_hits > 0 or not self.attacker.is_chance

    @property
    def conclusive(self) -> bool:
        """Whether a hit would have been seen."""
        return self.control.low > 0.5 and (self.control_hits > 0 or not self.reports_hits)

    def as_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "leaks": self.leaks, "conclusive": self.conclusive}


def auc(fast: Sequence[float], slow: Sequence[float]) -> float:
    """Share of pairs in which the value of `fast` is the smaller one; ties count half."""
    first, second = np.asarray(fast, dtype=float), np.asarray(slow, dtype=float)
    ordered = np.sort(second)
    below = np.searchsorted(ordered, first, side="left")
    upto = np.searchsorted(ordered, first, side="right")
    larger = len(second) - (below + upto) / 2
    return float(larger.mean() / len(second))


def separation(fast: Sequence[float], slow: Sequence[float], seed: int = 0) -> Separation:
    """AUC with its bootstrap interval (percentiles, `LEVEL`): both samples are drawn again with replacement."""
    dice = np.random.default_rng(seed)
    first, second = np.asarray(fast, dtype=float), np.asarray(slow, dtype=float)
    drawn = [
        auc(dice.choice(first, len(first)), dice.choice(second, len(second)))  # type: ignore[arg-type]
        for _ in range(_RESAMPLES)
    ]
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Separation(round(auc(fast, slow), 4), round(float(low), 4), round(float(high), 4))


def measured(
    attack: Attack,
    texts: Iterator[str],
    probes: int,
    seed: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> Finding:
    """Run an attack.

    Args:
        texts: each is new.
        probes: rounds, at least `LEAST_PROBES`.
        advance: called after each round.

    Raises:
        BadRequest: too few rounds.
        Unavailable: the server refuses a request.
    """
    if probes < LEAST_PROBES:
        raise BadRequest(f"at least {LEAST_PROBES} probes are needed for an interval")
    dice = random.Random(seed)
    first: list[Sample] = []
    repeats: list[Sample] = []
    right: list[Sample] = []
    wrong: list[Sample] = []
    for _ in range(probes):
        known, unknown = next(texts), next(texts)
        first.append(attack.victim(known))
        attack.settle(known)
        guesses = [(known, right), (unknown, wrong)]
        dice.shuffle(guesses)
        for guess, samples in guesses:
            samples.append(attack.attacker(guess))
        repeats.append(attack.victim(known))
        advance()
    return finding(attack.name, first, repeats, right, wrong)


def finding(
    name: str,
    first: Sequence[Sample],
    repeats: Sequence[Sample],
    right: Sequence[Sample],
    wrong: Sequence[Sample],
) -> Finding:
    """Evaluate the requests of an attack, by round.

    Args:
        first: the victim's.
        repeats: the victim's, of the same texts.
        right: the attacker's, of the same texts.
        wrong: the attacker's, of other texts.
    """
    guesses = [*right, *wrong]
    return Finding(
        attack=name,
        probes=len(first),
        attacker=separation(_seconds(right), _seconds(wrong)),
        control=separation(_seconds(repeats), _seconds(first)),
        attacker_cached_tokens=sum(each.cached_tokens or 0 for each in guesses),
        attacker_hits=sum(map(_is_hit, guesses)),
        control_hits=sum(map(_is_hit, repeats)),
        reports_hits=any(each.cached_tokens is not None or each.loaded for each in repeats),
        right_ms=_median_ms(right),
        wrong_ms=_median_ms(wrong),
        first_ms=_median_ms(first),
        repeat_ms=_median_ms(repeats),
    )


def _seconds(samples: Sequence[Sample]) -> list[float]:
    return [each.seconds for each in samples]


def _is_hit(sample: Sample) -> bool:
    return bool(sample.cached_tokens or sample.loaded)


def _median_ms(samples: Sequence[Sample]) -> float:
    return round(1000 * float(np.median(_seconds(samples))), 3)


def new_texts(words: int, seed: int | None = None) -> Iterator[str]:
    """Random texts of so many words; no rule of redaction finds a secret in them."""
    dice = random.Random(secrets.randbits(64) if seed is None else seed)
    while True:
        yield " ".join(f"{dice.choice(_WORDS)}{dice.randint(1, 99)}" for _ in range(words))
