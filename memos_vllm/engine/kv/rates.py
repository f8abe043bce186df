"""How fast this engine computes prompts, and reads KV from each tier: measured, and kept up to date."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

_KEPT = 0.9
"""What an older observation counts, each time there is a newer one."""


@dataclasses.dataclass(slots=True)
class Rate:
    amount: float = 0.0
    seconds: float = 0.0

    def add(self, amount: float, seconds: float) -> None:
        if amount > 0 and seconds > 0:
            self.amount = self.amount * _KEPT + amount
            self.seconds = self.seconds * _KEPT + seconds

    @property
    def each(self) -> float | None:
        """Seconds for one; None: never measured."""
        return self.seconds / self.amount if self.amount else None


class Rates:
    def __init__(self) -> None:
        self.prefill = Rate()
        self.load = {"ram": Rate(), "disk": Rate()}

    def learn(self, counts: Mapping[str, float]) -> None:
        """From a worker's counts since the last time, by the names of `stats.COUNTERS`."""
        self.prefill.add(counts.get("prefill_tokens", 0), counts.get("prefill_seconds", 0))
        for tier, rate in self.load.items():
            rate.add(counts.get(f"read_tokens_{tier}", 0), counts.get(f"read_seconds_{tier}", 0))

    def saved_seconds(self, tokens: int, read: int, tier: str) -> float:
        """By loading instead of computing. Where nothing was measured yet, loading is free.

        Args:
            tokens: that need not be computed then.
            read: tokens in the file that has to be read for it.
        """
        compute = self.prefill.each
        load = self.load[tier].each
        if compute is None or load is None:
            return float(tokens)
        return tokens * compute - read * load

    def most_saving(self, pieces: Iterable[tuple[int, int, str]]) -> int:
        """How many of these, from the first on, are worth loading.

        Args:
            pieces: (tokens, read, tier) each, as for `saved_seconds`.
        """
        best, count, saved = 0.0, 0, 0.0
        for number, (tokens, read, tier) in enumerate(pieces, 1):
            saved += self.saved_seconds(tokens, read, tier)
            if saved > best:
                best, count = saved, number
        return count
