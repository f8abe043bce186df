"""What the clients of a killed server were told: each fact, and whether its write or deletion was acknowledged.

A fact is one sentence with a word of its own.  Its fate is `UNKNOWN` from before its request is sent until the
reply has ended well, so a request that a kill cuts off leaves it there: both outcomes are right then.
"""

from __future__ import annotations

import dataclasses
import itertools
import threading
from enum import StrEnum

_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"
_SYLLABLES = [a + b for a, b in itertools.product(_CONSONANTS, _VOWELS)]
_LENGTH = 5


class Fate(StrEnum):
    KEPT = "kept"
    DELETED = "deleted"
    UNKNOWN = "unknown"


@dataclasses.dataclass
class Fact:
    person: str
    word: str
    """Of no other fact; every word has the same length, so none is a part of another."""
    sentence: str
    fate: Fate = Fate.UNKNOWN
    cube: str | None = None
    """Id, once the server has named it."""
    batch: int | None = None
    """Facts of one batch are stored all or none."""
    forgotten: frozenset[str] = frozenset()
    """Ids of the items that a deletion named."""
    turn: bool = False
    """Said in a chat: it becomes memory after the reply."""


@dataclasses.dataclass
class Erasure:
    person: str
    id: str | None = None
    """None: not acknowledged."""


class Ledger:
    """Facts of one run. Thread-safe."""

    def __init__(self, run: int) -> None:
        self._words = itertools.count(run * 100_000)
        self._batches = itertools.count()
        self._lock = threading.Lock()
        self.facts: list[Fact] = []
        self.erasures: list[Erasure] = []
        self.adapters: dict[str, str] = {}
        """Ids of acknowledged parametric cubes, with their person."""
        self.refused: list[str] = []
        """Requests that were answered with an error that no kill explains."""
        self.unclear: list[str] = []
        """Errors without a service that do not say that a part of memory is away."""

    def fact(self, person: str, *, turn: bool = False, batch: int | None = None) -> Fact:
        with self._lock:
            word = word_of(next(self._words))
            made = Fact(person, word, f"I met {word} in the park.", turn=turn, batch=batch)
            self.facts.append(made)
        return made

    def next_batch(self) -> int:
        return next(self._batches)

    def of(self, person: str, fate: Fate) -> list[Fact]:
        with self._lock:
            return [f for f in self.facts if f.person == person and f.fate is fate]

    def people(self) -> list[str]:
        return list(dict.fromkeys(fact.person for fact in self.facts))

    def counts(self) -> dict[str, int]:
        return {fate.value: sum(f.fate is fate for f in self.facts) for fate in Fate}


def word_of(number: int) -> str:
    """A name of ten letters that can be pronounced: no rule of redaction takes it for a secret."""
    parts = []
    for _ in range(_LENGTH):
        number, place = divmod(number, len(_SYLLABLES))
        parts.append(_SYLLABLES[place])
    return "".join(reversed(parts)).capitalize()
