"""Rows and ratios of the slices."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks.overhead.reference import limit
from benchmarks.serving.arms import KEPT, NONE, OURS, PASTED, QUIET
from benchmarks.serving.load import REPLY_TOKENS, Slice

_RIVALS = {OURS: PASTED, QUIET: NONE, KEPT: OURS}
_PAIRS = {OURS: "ours_over_pasted", QUIET: "quiet_over_bare", KEPT: "kept_over_ours"}
"""Arm → the arm that it is compared with."""


def rows(slices: Sequence[Slice], *, drop: bool) -> list[dict[str, Any]]:
    """A row per arm and concurrency, over the rounds that count.

    Args:
        drop: leave out rounds in which the machine was slow; false in a smoke run.
    """
    used = _used(slices, drop=drop)
    found = []
    for level in sorted({each.concurrency for each in used}):
        for arm in dict.fromkeys(each.arm for each in used):
            mine = [each for each in used if (each.arm, each.concurrency) == (arm, level)]
            if mine:
                found.append(_row(arm, level, mine))
    return found


def headline(slices: Sequence[Slice], *, drop: bool) -> dict[str, float]:
    """Ratios to the rival, each the median over rounds; TTFT of a round by its median and 95th percentile."""
    used = _used(slices, drop=drop)
    found: dict[str, float] = {}
    for level, (arm, rival) in itertools.product(
        sorted({each.concurrency for each in used}), _RIVALS.items()
    ):
        pairs = list(_pairs(used, level, arm, rival))
        if not pairs:
            continue
        name = f"{_PAIRS[arm]}_{level}"
        for what, of in _MEASURES.items():
            ratios = [of(one) / of(other) for one, other in pairs]
            found[f"{what}_{name}"] = round(statistics.median(ratios), 3)
    found["errors_ours"] = sum(len(each.errors) for each in slices if each.arm in _RIVALS)
    found["rounds_dropped"] = len(_rounds(slices)) - len(_rounds(used))
    return found


def _used(slices: Sequence[Slice], *, drop: bool) -> list[Slice]:
    """Slices of the rounds in which every arm answered at the machine's usual speed."""
    if not drop:
        return [each for each in slices if each.answers]
    longest = limit([each.reference for each in slices])
    slow = {_round(each) for each in slices if each.reference > longest}
    return [each for each in slices if each.answers and _round(each) not in slow]


def _round(made: Slice) -> tuple[int, int, int]:
    return made.start, made.round, made.concurrency


def _rounds(slices: Sequence[Slice]) -> set[tuple[int, int, int]]:
    return {_round(each) for each in slices}


def _pairs(
    slices: Sequence[Slice], level: int, arm: str, rival: str
) -> Iterator[tuple[Slice, Slice]]:
    by_place = {(_round(each), each.arm): each for each in slices if each.concurrency == level}
    for (place, name), made in by_place.items():
        if name == arm and (place, rival) in by_place:
            yield made, by_place[place, rival]


def _percentile(made: Slice, which: float) -> float:
    return float(np.percentile([answer.ttft for answer in made.answers], which))


_MEASURES: dict[str, Callable[[Slice], float]] = {
    "ttft_p50": lambda made: _percentile(made, 50),
    "ttft_p95": lambda made: _percentile(made, 95),
    "per_token": lambda made: statistics.median(answer.per_token for answer in made.answers),
    "tokens_per_second": lambda made: len(made.answers) * REPLY_TOKENS / made.seconds,
}


def _row(arm: str, level: int, mine: Sequence[Slice]) -> dict[str, Any]:
    answers = [answer for each in mine for answer in each.answers]
    ttfts = [answer.ttft for answer in answers]
    seconds = sum(each.seconds for each in mine)
    prompts = sum(answer.prompt_tokens for answer in answers)
    return {
        "arm": arm,
        "concurrency": level,
        "rounds": len(mine),
        "requests": len(answers),
        "errors": sum(len(each.errors) for each in mine),
        "degraded": sum(answer.degraded for answer in answers),
        **{
            f"ttft_p{which}": round(float(np.percentile(ttfts, which)), 3) for which in (50, 95, 99)
        },
        "per_token_ms": round(1000 * statistics.median(a.per_token for a in answers), 1),
        "whole_p50": round(statistics.median(a.whole for a in answers), 3),
        "tokens_per_second": round(len(answers) * REPLY_TOKENS / seconds, 2),
        "prompt_tokens": round(prompts / len(answers)),
        "cached_share": round(sum(a.cached_tokens for a in answers) / prompts, 3),
        "api_cpu_ms_per_request": round(
            1000 * sum(each.api_seconds for each in mine) / len(answers), 1
        ),
        "helper_cpu_ms_per_request": round(
            1000 * sum(each.helper_seconds for each in mine) / len(answers), 1
        ),
    }
