"""TTFT, decoding and size of compacts on one server, beside the text in a warm prefix cache."""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.ttft.chat import Bench, new_person
from memos_vllm.activation.compacts import Compact, CompactNotes
from memos_vllm.activation.erase import SUFFIX

RATIO = 8.0
SIZES = {"1k": 1024, "4k": 4096, "6k": 6144, "max": 6900}
WARM = "text, prefix cache warm"
NONE = "no memory"
LOADED = "compact, from shared memory"
CACHED = "compact, prefix cache warm"
QUESTION_TOKENS, REPLY_TOKENS = 40, 48
IDLE_SECONDS = 0.4
_seeds = itertools.count(50_000)


class Speed:
    def __init__(self, bench: Bench, repetitions: int) -> None:
        self._bench, self._repetitions = bench, repetitions
        self._owner = new_person()
        self._ttft: dict[tuple[str, str], list[float]] = defaultdict(list)
        self._token: dict[tuple[str, str], list[float]] = defaultdict(list)
        """Seconds for each token behind the first."""
        self._made: dict[str, dict[str, Any]] = {}
        self._cubes: dict[str, str] = {}

    def prepare(self, sizes: dict[str, int]) -> None:
        """Make the compacts."""
        for name, tokens in sizes.items():
            self._cubes[name] = cube = self._bench.cube(tokens - 60, next(_seeds))
            self._made[name] = self._compacted(cube)
            print(name, self._made[name], flush=True)

    def run(self) -> None:
        """Ways alternate within each repetition, so that a slow minute affects all of them."""
        for name, cube in self._cubes.items():
            self._ask(self._owner, [cube], "exact")
            for _ in range(self._repetitions):
                self._time(name, NONE, new_person(), [], "exact")
                self._time(name, WARM, self._owner, [cube], "exact")
                self._time(name, LOADED, new_person(), [cube], "compact")
                self._time(name, CACHED, self._owner, [cube], "compact")

    def rows(self) -> list[dict[str, Any]]:
        return [
            {
                "part": "speed",
                "memory": name,
                "way": way,
                "ttft_s_median": round(statistics.median(seconds), 4),
                "ttft_over_warm": self.ratio(name, way),
                "decode_tokens_per_s_median": round(
                    1 / statistics.median(self._token[name, way]), 2
                ),
                "decode_speed_over_warm": self.decode_ratio(name, way),
                "repetitions": len(seconds),
                **(self._made[name] if way == LOADED else {}),
            }
            for (name, way), seconds in self._ttft.items()
        ]

    def ratio(self, name: str, way: str) -> float:
        """Median over repetitions of TTFT over that of the warm text in the same repetition."""
        pairs = zip(self._ttft[name, way], self._ttft[name, WARM], strict=True)
        return round(statistics.median(one / other for one, other in pairs), 3)

    def decode_ratio(self, name: str, way: str) -> float:
        """The same of tokens a second."""
        pairs = zip(self._token[name, way], self._token[name, WARM], strict=True)
        return round(statistics.median(other / one for one, other in pairs), 3)

    def _compacted(self, cube: str) -> dict[str, Any]:
        """Make a compact, whatever it keeps; its size and seconds."""
        wanted = {"ratio": RATIO, "max_kl": 1000}
        job = self._bench.http.post(f"/v1/memory/cubes/{cube}/compact", json=wanted).json()["id"]
        while True:
            found = self._bench.http.get(f"/v1/memory/jobs/{job}").json()
            if found["state"] not in ("queued", "running"):
                break
            time.sleep(1)
        if found["state"] != "done":
            raise RuntimeError(f"no compact: {found['report']}")
        report = found["report"]
        home: Path | None = self._bench.server.home
        assert home is not None
        compact: Compact = next(
            each
            for _, each in CompactNotes(home / "kv" / "compacts").all()
            if each.cube.startswith(f"{cube}@")
        )
        size = (home / "kv" / "segments" / f"{compact.segment}{SUFFIX}").stat().st_size
        return {
            "places": compact.places,
            "tokens": compact.tokens,
            "bytes": size,
            "times_smaller": round(compact.tokens / compact.places, 2),
            "kl": report["kl"],
            "seconds_to_make": report["seconds"],
        }

    def _time(self, name: str, way: str, person: str, cubes: list[str], kv: str) -> None:
        time.sleep(IDLE_SECONDS)
        first, each = self._ask(person, cubes, kv)
        self._ttft[name, way].append(first)
        self._token[name, way].append(each)

    def _ask(self, person: str, cubes: list[str], kv: str) -> tuple[float, float]:
        """(seconds to the first token, seconds for each further one)"""
        question = self._bench.text(QUESTION_TOKENS - 20, next(_seeds)) + " Which number is it?"
        body = self._bench.body(person, question, cubes, kv) | {
            "max_tokens": REPLY_TOKENS,
            "ignore_eos": True,
            "stream": True,
        }
        started = time.perf_counter()
        times = []
        with self._bench.http.stream("POST", "/v1/chat/completions", json=body) as reply:
            reply.raise_for_status()
            for line in reply.iter_lines():
                if not line.startswith("data: {"):
                    continue
                choices = json.loads(line.removeprefix("data: "))["choices"]
                if choices and choices[0]["delta"].get("content"):
                    times.append(time.perf_counter() - started)
        return times[0], (times[-1] - times[0]) / (len(times) - 1)
