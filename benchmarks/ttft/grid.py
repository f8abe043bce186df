"""TTFT by size of memory, length of question (the paper's grid) and source of the KV."""

from __future__ import annotations

import itertools
import statistics
import time
from collections import defaultdict
from typing import Any

from benchmarks.ttft.chat import Bench, new_person

SIZES = {"0.5k": 512, "1k": 1024, "2.7k": 2700, "4k": 4096, "6k": 6144, "max": 6900}
QUESTIONS = (40, 160, 300, 950)
IDLE_SECONDS = 0.4
WARM = "prefix cache warm"
DISK, FETCHED = "exact, disk", "exact, restarted, fetched ahead"
CUBES = 4
"""Cubes of a memory: near KV is measured on other orders of them."""
_seeds = itertools.count(1)


def _limit(way: str) -> str:
    """The prefix-cache measurement that a way is compared with."""
    restarted = (DISK, FETCHED, f"{WARM}, restarted")
    return f"{WARM}, restarted" if way in restarted else WARM


class Grid:
    def __init__(self, bench: Bench, repetitions: int, prefills: int) -> None:
        self._bench = bench
        self._repetitions = repetitions
        self._prefills = prefills
        self._memories: dict[str, list[str]] = {}
        self._seconds: dict[tuple[str, int, str], list[float]] = defaultdict(list)
        self._cached: dict[tuple[str, int, str], int] = {}
        self._owner = new_person()

    def prepare(self, sizes: dict[str, int]) -> None:
        """Make the memories, and ask once with each, so that its KV is stored."""
        for name, tokens in sizes.items():
            cubes = [self._bench.cube((tokens - 60) // CUBES, next(_seeds)) for _ in range(CUBES)]
            self._memories[name] = cubes
            self._bench.ask(self._owner, self._question(40), cubes, max_tokens=1)
            self._bench.wait_until_kept(cubes[-1])

    def run(self, questions: tuple[int, ...]) -> None:
        """Ways alternate within each repetition, so that a slow minute affects all of them."""
        for name, cubes in self._memories.items():
            orders = itertools.cycle(list(itertools.permutations(cubes))[1:])
            for tokens in questions:
                for repetition in range(self._repetitions):
                    key = (name, tokens)
                    self._time(*key, "no memory", new_person(), [])
                    self._time(*key, WARM, self._owner, cubes)
                    self._time(*key, "exact, RAM", new_person(), cubes)
                    self._time(*key, "near", new_person(), list(next(orders)), kv="near")
                    if repetition < self._prefills:
                        self._time(*key, "full prefill", new_person(), cubes, kv="none")

    def run_from_disk(self, questions: tuple[int, ...]) -> None:
        """Loads from disk after a restart, with the page cache dropped before each."""
        for name, cubes in self._memories.items():
            self._bench.ask(self._owner, self._question(40), cubes, max_tokens=1)
            for tokens in questions:
                for _ in range(self._repetitions):
                    self._time(name, tokens, f"{WARM}, restarted", self._owner, cubes)
                    self._bench.only_on_disk()
                    self._time(name, tokens, DISK, new_person(), cubes)

    def run_fetched(self, questions: tuple[int, ...]) -> None:
        """Loads from shared memory after a restart that fetched KV ahead."""
        for name, cubes in self._memories.items():
            for tokens in questions:
                for _ in range(self._repetitions):
                    self._time(name, tokens, FETCHED, new_person(), cubes)

    def rows(self) -> list[dict[str, Any]]:
        return [
            {
                "memory": name,
                "question_tokens": tokens,
                "way": way,
                "ttft_s_median": round(statistics.median(found), 4),
                "ttft_s_min": round(min(found), 4),
                "ttft_s_max": round(max(found), 4),
                "over_prefix_warm": self.ratio(name, tokens, way, _limit(way)),
                "cached_tokens": self._cached[name, tokens, way],
                "repetitions": len(found),
            }
            for (name, tokens, way), found in self._seconds.items()
        ]

    def ratio(self, name: str, tokens: int, way: str, of: str) -> float:
        """Median over repetitions of the ratio of two ways inside one repetition."""
        pairs = zip(self._seconds[name, tokens, way], self._seconds[name, tokens, of], strict=False)
        return round(statistics.median(one / other for one, other in pairs), 3)

    def _time(
        self, name: str, tokens: int, way: str, person: str, cubes: list[str], kv: str = "exact"
    ) -> None:
        time.sleep(IDLE_SECONDS)
        seconds, cached = self._bench.ttft(person, self._question(tokens), cubes, kv)
        self._seconds[name, tokens, way].append(seconds)
        self._cached[name, tokens, way] = cached

    def _question(self, tokens: int) -> str:
        return self._bench.text(max(tokens - 20, 8), next(_seeds)) + " Which number is it?"
