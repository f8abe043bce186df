"""`python -m benchmarks.overhead [--pairs 40] [--quick]`: paired TTFT, plugin against bare vLLM.

Two servers run side by side. A pair is the same fresh prompt sent to one and then to the other, in
random order, alone, streaming; TTFT is the time from sending to the first event. The ratio of each
pair is taken, then the median of the ratios, so that other work on the machine affects both halves.
Each half waits until the other server is idle: vLLM's processes spin for a second after a request and
take processor time from the other server on a small machine.

The row `bare against itself` is the noise: the same pairing with the bare server in both places.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from benchmarks.record import Record, output_arguments
from memos_vllm.config.load import load_config
from memos_vllm.governance.principal import Role
from memos_vllm.system import MemorySystem
from tests.engine.harness import MODEL, Server

WORDS = [
    "river",
    "mountain",
    "silver",
    "garden",
    "window",
    "letter",
    "music",
    "winter",
    "yellow",
    "market",
    "bridge",
    "candle",
    "forest",
    "paper",
    "stone",
    "harbor",
    "lantern",
    "meadow",
    "orchard",
    "pocket",
    "railway",
    "saddle",
    "thunder",
    "umbrella",
    "valley",
]
IDLE_SECONDS = 1.3
Send = Callable[[str], float]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--words", type=int, default=150, help="length of a prompt")
    output_arguments(parser)
    arguments = parser.parse_args()
    pairs = 2 if arguments.quick else arguments.pairs
    record = Record("overhead")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        key = _make_key(folder / "home")
        with (
            Server(folder, home=None).running() as bare,
            Server(folder, home=folder / "home").running() as ours,
        ):
            cases: dict[str, tuple[Send, Send]] = {
                "bare against itself": (sender(bare, None, {}), sender(bare, None, {})),
                "memory off": (
                    sender(ours, key, {"memory": {"enabled": False}}),
                    sender(bare, None, {}),
                ),
                "nothing to inject": (
                    sender(ours, key, {"memory": {"write": False}}),
                    sender(bare, None, {}),
                ),
                "nothing to inject, turn remembered": (
                    fresh_person(ours, key),
                    sender(bare, None, {}),
                ),
            }
            record.rows = measure(cases, pairs, arguments.words)
    by_case = {row["case"]: row["ttft_ratio_median"] for row in record.rows}
    record.headline = {
        "ttft_ratio_memory_off": by_case["memory off"],
        "ttft_ratio_nothing_to_inject": by_case["nothing to inject"],
    }
    record.finish(quick=arguments.quick, out=arguments.out)


def _make_key(home: Path) -> str:
    system = MemorySystem(load_config(overrides={"home": str(home)})).open()
    _, key = system.keys.create("bench", Role.WRITER)
    system.close()
    return key


def sender(server: Server, key: str | None, extra: dict[str, Any]) -> Send:
    client = server.http(key)

    def send(prompt: str) -> float:
        return _ttft(client, prompt, {"user": "someone", **extra})

    return send


def fresh_person(server: Server, key: str) -> Send:
    """Send each request as a new person, so that no remembered turn is injected."""
    client = server.http(key)

    def send(prompt: str) -> float:
        return _ttft(client, prompt, {"user": f"person-{random.random()}"})

    return send


def _ttft(client: httpx.Client, prompt: str, extra: dict[str, Any]) -> float:
    """Seconds from sending a chat to the first event of its stream."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": 2,
        "temperature": 0,
        "stream": True,
        **extra,
    }
    started = time.perf_counter()
    first = 0.0
    with client.stream("POST", "/v1/chat/completions", json=body) as reply:
        reply.raise_for_status()
        for line in reply.iter_lines():
            if line.startswith("data: ") and not first:
                first = time.perf_counter() - started
    return first


def measure(cases: dict[str, tuple[Send, Send]], pairs: int, words: int) -> list[dict[str, Any]]:
    """Ratios of each case; cases alternate within a round, so that a slow minute affects all of them."""
    ratios: dict[str, list[float]] = {case: [] for case in cases}
    for round_ in range(-2, pairs):  # two rounds to warm up
        for case, (ours, bare) in cases.items():
            prompt = " ".join(random.choices(WORDS, k=words))
            # A prompt that the bare server has seen would hit its prefix cache.
            halves: list[tuple[str, Send, str]] = [
                ("ours", ours, prompt),
                ("bare", bare, prompt if case != "bare against itself" else _reworded(prompt)),
            ]
            random.shuffle(halves)
            seconds = {}
            for name, send, text in halves:
                time.sleep(IDLE_SECONDS)
                seconds[name] = send(text)
            if round_ >= 0:
                ratios[case].append(seconds["ours"] / seconds["bare"])
    return [_row(case, found) for case, found in ratios.items()]


def _reworded(prompt: str) -> str:
    """A prompt of the same length with another first word: no block of it is cached."""
    words = prompt.split()
    return " ".join(words[1:] + words[:1])


def _row(case: str, ratios: list[float]) -> dict[str, Any]:
    quartiles = statistics.quantiles(ratios, n=4)
    return {
        "case": case,
        "ttft_ratio_median": round(statistics.median(ratios), 4),
        "ttft_ratio_p25": round(quartiles[0], 4),
        "ttft_ratio_p75": round(quartiles[2], 4),
        "pairs": len(ratios),
    }


if __name__ == "__main__":
    main()
