"""`python -m benchmarks.extraction [--repetitions 15] [--quick]`: TTFT while the model reads turns.

One server whose own model reads each turn (`reader.mode: fine`), with `--scheduling-policy priority`.
Each repetition times the first token of a new question in three cases, in random order: the engine is
idle; the model reads a turn; the model answers another person, the cost of waiting for a request of
equal priority.  The result is the median over repetitions of the ratio to the idle engine.  A question
is sent only once the competing work runs.  Competing requests that fail are counted and reported with
their errors.
"""

from __future__ import annotations

import argparse
import random
import re
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx

from benchmarks.record import Record, output_arguments
from benchmarks.ttft.chat import Bench, first_event, new_person
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


Case = Callable[[Bench, int], AbstractContextManager[None]]
"""Competing work, which runs while the context is entered; the number seeds its text."""
ANSWERED = "a person is answered"


class LoadGenerator:
    """Chat requests of other persons in the background, and the errors of those that fail."""

    def __init__(self) -> None:
        self.requests = 0
        self.errors: Counter[str] = Counter()

    def send(self, bench: Bench, chat: dict[str, Any]) -> None:
        self.requests += 1
        try:
            with bench.server.http() as http:
                http.post("/v1/chat/completions", json=chat).raise_for_status()
        except httpx.HTTPStatusError as error:
            self.errors[f"status {error.response.status_code}"] += 1
        except httpx.HTTPError as error:
            self.errors[type(error).__name__] += 1

    def summary(self) -> dict[str, Any]:
        return {
            "load_requests": self.requests,
            "load_requests_failed": self.errors.total(),
            "load_errors": dict(self.errors),
        }

    @contextmanager
    def answering(self, bench: Bench, seed: int) -> Iterator[None]:
        """Compute a request as long as the one that reads a turn, for another person."""
        chat = body(bench, 90_000 + seed, 400, 100, write=False) | {"ignore_eos": True}
        with ThreadPoolExecutor(1) as pool:
            sent = pool.submit(self.send, bench, chat)
            wait_until(lambda: running(bench) > 0, "a person being answered")
            yield
            sent.result()


def measure(bench: Bench, repetitions: int) -> Iterator[dict[str, Any]]:
    for case in cases(LoadGenerator()).values():  # warm-up: everything that happens once
        with case(bench, 0):
            ask(bench, 1)
    load = LoadGenerator()
    each = cases(load)
    seconds: dict[str, list[float]] = defaultdict(list)
    dice = random.Random(0)
    for number in range(1, repetitions + 1):
        for place, name in enumerate(dice.sample(sorted(each), len(each))):
            wait_until(lambda: running(bench) == 0, "the engine being idle")
            with each[name](bench, 10 * number + place):
                seconds[name].append(ask(bench, 1000 * number + place))
    if load.errors:
        print(f"requests of the load generator failed: {dict(load.errors)}", file=sys.stderr)
    for name in each:
        pairs = zip(seconds[name], seconds["alone"], strict=True)
        row = {
            "while": name,
            "ttft_s_median": round(statistics.median(seconds[name]), 4),
            "ttft_s_min": round(min(seconds[name]), 4),
            "ttft_s_max": round(max(seconds[name]), 4),
            "over_alone": round(statistics.median(one / other for one, other in pairs), 3),
        }
        yield row | (load.summary() if name == ANSWERED else {})


def cases(load: LoadGenerator) -> dict[str, Case]:
    return {"alone": alone, "a turn is read": reading, ANSWERED: load.answering}


def ask(bench: Bench, seed: int) -> float:
    """Seconds to the first token of a new question, which is not remembered."""
    return first_event(bench.http, body(bench, seed, QUESTION, 1, write=False))[0]


@contextmanager
def alone(bench: Bench, seed: int) -> Iterator[None]:
    yield


@contextmanager
def reading(bench: Bench, seed: int) -> Iterator[None]:
    """Have the model read a turn; leaves when it has read it."""
    before = read(bench)
    turn = body(bench, 50_000 + seed, SAID, 1, write=True)
    bench.http.post("/v1/chat/completions", json=turn).raise_for_status()
    wait_until(lambda: running(bench) > 0, "a turn being read")
    yield
    wait_until(lambda: read(bench) > before, "the turn having been read")


def body(bench: Bench, seed: int, tokens: int, longest: int, *, write: bool) -> dict[str, Any]:
    return {
        "model": MODEL,
        "user": new_person(),
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
