"""`python -m benchmarks.extraction [--repetitions 15] [--quick]`: does memory work stand in anyone's way?

One server whose own model reads each turn (`reader.mode: fine`), with `--scheduling-policy priority`.
In each repetition the first token of a new question is timed three times, in random order: alone;
while a turn is being read; and while another person's request computes, which is what waiting for an
equal costs.  Ratios to `alone` are taken inside a repetition, then their median.  A time counts only
if what it was to meet was running when the question was sent.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import re
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.record import Record, output_arguments
from benchmarks.ttft.chat import Bench, first_event, somebody
from tests.engine.harness import MODEL, Server

POLICY = ("--scheduling-policy", "priority")
QUESTION, SAID = 160, 60
PATIENCE_SECONDS = 60.0
_RUNNING = re.compile(r"^vllm:num_requests_running\{.*\} ([\d.]+)$", re.MULTILINE)
_READ = re.compile(r"^memos_extractions_total\{.*\} ([\d.]+)$", re.MULTILINE)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=15)
    output_arguments(parser)
    arguments = parser.parse_args()
    repetitions = 2 if arguments.quick else arguments.repetitions
    record = Record(
        "extraction",
        config={"question_tokens": QUESTION, "said_tokens": SAID, "repetitions": repetitions},
    )
    with tempfile.TemporaryDirectory() as name:
        fine = {"MEMOS__READER__MODE": "fine"}
        server = Server(Path(name), home=Path(name) / "home", environment=fine, flags=POLICY)
        with server.running() as running:
            record.rows = list(measure(Bench(running), repetitions))
    for row in record.rows[1:]:
        record.headline[f"ttft_over_alone_{row['while'].replace(' ', '_')}"] = row["over_alone"]
    record.finish(quick=arguments.quick, out=arguments.out)


def measure(bench: Bench, repetitions: int) -> Iterator[dict[str, Any]]:
    ways: dict[str, Callable[[Bench, int], AbstractContextManager[None]]] = {
        "alone": alone,
        "a turn is read": reading,
        "a person is answered": answering,
    }
    seconds: dict[str, list[float]] = defaultdict(list)
    dice = random.Random(0)
    for way in ways.values():  # whatever is done once is done
        with way(bench, 0):
            ask(bench, 1)
    for number in range(1, repetitions + 1):
        for place, way in enumerate(dice.sample(sorted(ways), len(ways))):
            wait_until(lambda: running(bench) == 0, "the engine being idle")
            with ways[way](bench, 10 * number + place):
                seconds[way].append(ask(bench, 1000 * number + place))
    for way in ways:
        pairs = zip(seconds[way], seconds["alone"], strict=True)
        yield {
            "while": way,
            "ttft_s_median": round(statistics.median(seconds[way]), 4),
            "ttft_s_min": round(min(seconds[way]), 4),
            "ttft_s_max": round(max(seconds[way]), 4),
            "over_alone": round(statistics.median(one / other for one, other in pairs), 3),
        }


def ask(bench: Bench, seed: int) -> float:
    """Seconds to the first token of a question that nobody asked before, and that is not remembered."""
    return first_event(bench.http, body(bench, seed, QUESTION, 1, write=False))[0]


@contextmanager
def alone(bench: Bench, seed: int) -> Iterator[None]:
    yield


@contextmanager
def reading(bench: Bench, seed: int) -> Iterator[None]:
    """From when the model reads a turn until it has read it."""
    before = read(bench)
    said = body(bench, 50_000 + seed, SAID, 1, write=True)
    bench.http.post("/v1/chat/completions", json=said).raise_for_status()
    wait_until(lambda: running(bench) > 0, "a turn being read")
    yield
    wait_until(lambda: read(bench) > before, "the turn having been read")


@contextmanager
def answering(bench: Bench, seed: int) -> Iterator[None]:
    """While a request like the one that reads a turn is computed for a person."""
    asked = body(bench, 90_000 + seed, 400, 100, write=False) | {"ignore_eos": True}

    def send() -> None:
        with contextlib.suppress(Exception):  # the measured one is the other
            bench.server.http().post("/v1/chat/completions", json=asked)

    other = threading.Thread(target=send)
    other.start()
    wait_until(lambda: running(bench) > 0, "a person being answered")
    yield
    other.join()


def body(bench: Bench, seed: int, tokens: int, longest: int, *, write: bool) -> dict[str, Any]:
    return {
        "model": MODEL,
        "user": somebody(),
        "messages": [{"role": "user", "content": bench.text(tokens, seed)}],
        "temperature": 0,
        "max_tokens": longest,
        "memory": {"write": write},
    }


def running(bench: Bench) -> float:
    return sum(map(float, _RUNNING.findall(bench.http.get("/metrics").text)))


def read(bench: Bench) -> float:
    return sum(map(float, _READ.findall(bench.http.get("/metrics").text)))


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.02)
    raise TimeoutError(f"waited {PATIENCE_SECONDS:.0f} s for {what}")


if __name__ == "__main__":
    main()
