"""Measured rates of prefill and of reads from each tier, as moving averages."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

_DECAY = 0.9
"""Decay of the moving average, per observation."""


@dataclasses.dataclass(slots=True)
class Rate:
    amount: float = 0.0
    seconds: float = 0.0

    def add(self, amount: float, seconds: float) -> None:
        if amount > 0 and seconds > 0:
            self.amount = self.amount * _DECAY + amount
            self.seconds = self.seconds * _DECAY + seconds

    @property
    def each(self) -> float | None:
        """Seconds for one token; None: never measured."""
        return self.seconds / self.amount if self.amount else None


@dataclasses.dataclass(frozen=True, slots=True)
class SegmentRead:
    """Benefit and cost of loading one segment."""

    spared: int
    """Tokens that need no prefill then."""
    tokens: int
    """Tokens in the file, all of which are read."""
    tier: str


class Rates:
    def __init__(self) -> None:
        self.prefill = Rate()
        self.load = {"ram": Rate(), "disk": Rate()}

    def learn(self, counts: Mapping[str, float]) -> None:
        """Add a worker's counts since its last report, by the names of `stats.COUNTERS`."""
        self.prefill.add(counts.get("prefill_tokens", 0), counts.get("prefill_seconds", 0))
        for tier, rate in self.load.items():
            rate.add(counts.get(f"read_tokens_{tier}", 0), counts.get(f"read_seconds_{tier}", 0))

    def saved_seconds(self, read: SegmentRead) -> float:
        """Seconds saved by loading instead of computing; before any measurement, loading is free."""
        compute = self.prefill.each
        load = self.load[read.tier].each
        if compute is None or load is None:
            return float(read.spared)
        return read.spared * compute - read.tokens * load

    def most_saving(self, reads: Iterable[SegmentRead]) -> int:
        """How many of these, from the first on, are worth loading."""
        best, count, saved = 0.0, 0, 0.0
        for number, read in enumerate(reads, 1):
            saved += self.saved_seconds(read)
            if saved > best:
                best, count = saved, number
        return count
