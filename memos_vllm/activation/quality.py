"""Cost of approximate KV: divergence of replies on it from replies on exact KV, per segment.

<folder>/<model>+<scope>+<key>     measured cost of one segment's KV in other contexts
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Hashable, Mapping
from pathlib import Path

from memos_vllm.activation.names import SegmentName

_SURE = 1e-6


@dataclasses.dataclass(frozen=True, slots=True)
class Quality:
    probes: int
    kl: float
    """Mean KL divergence of the first token, nats: exact against approximate."""
    top1: float
    """Share of probes with the same likeliest token."""
    cube: str = ""
    behind: int = 0
    """Cubes that stood before it where the KV was computed."""

    def with_probe(self, kl: float, is_same: bool) -> Quality:
        count = self.probes + 1
        return dataclasses.replace(
            self,
            probes=count,
            kl=self.kl + (kl - self.kl) / count,
            top1=self.top1 + (is_same - self.top1) / count,
        )


class QualityNotes:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, name: SegmentName) -> Quality | None:
        """Quality of a segment; None: not measured yet."""
        with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
            return Quality(**json.loads(self._path(name).read_text()))
        return None

    def write(self, name: SegmentName, quality: Quality) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        unfinished = self._path(name).with_suffix(".tmp")
        unfinished.write_text(json.dumps(dataclasses.asdict(quality)))
        unfinished.replace(self._path(name))

    def forget(self, name: SegmentName) -> None:
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: SegmentName) -> Path:
        return self.folder / name.mark


def divergence(exact: Mapping[Hashable, float], other: Mapping[Hashable, float]) -> float:
    """KL divergence of two distributions over tokens, nats, from the likeliest tokens of each.

    Of unlisted tokens only the mass is known, so this is the larger of two lower bounds: one takes all
    tokens that are not listed in both as one event; the other takes a token that `other` does not list
    to be as likely there as the last one that it lists.

    Args:
        exact, other: token to log-probability, the likeliest of each.
    """
    common = exact.keys() & other.keys()
    last = min(other.values())
    shared = sum(math.exp(exact[token]) * (exact[token] - other[token]) for token in common)
    only = sum(math.exp(exact[token]) * (exact[token] - last) for token in exact.keys() - common)
    left = 1 - sum(math.exp(exact[token]) for token in common)
    left_other = 1 - sum(math.exp(other[token]) for token in common)
    unlisted = 1 - sum(math.exp(logprob) for logprob in exact.values())
    return max(shared + _event(left, left_other), shared + only + _event(unlisted, left_other), 0.0)


def _event(p: float, q: float) -> float:
    return p * math.log(p / max(q, _SURE)) if p > _SURE else 0.0
