"""`python -m benchmarks.extraction [--repetitions 15] [--quick]`: the cost of reading turns by the model.

Two servers, one after the other, whose own model reads each turn (`reader.mode: fine`), with
`--scheduling-policy priority`: the first reads behind the served conversation, the second with a prompt
of its own (`reader.continued: false`).  Each repetition times the first token of a new question while the
engine is idle, while the model reads a turn, and (first server) while it answers another person, the cost
of waiting for a request of equal priority, in random order.  The result is the median over repetitions of
the ratio to the idle engine.  A question is sent only once the competing work runs.  Competing requests
that fail are counted and reported with their errors.  Tokens per reading are the engine's own counts of
prompt tokens, computed and found in the prefix cache.
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
QUESTION, SAID, REPLY = 160, 60, 200
CHAT = "/v1/chat/completions"
PATIENCE_SECONDS = 60.0
_RUNNING = re.compile(r"^vllm:num_requests_running\{.*\} ([\d.]+)$", re.MULTILINE)
_WRITER = re.compile(r"^memos_writer_(requests|tokens)_total\{(.*)\} ([\d.]+)$", re.MULTILINE)
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
        for form, continued in (("continued", "true"), ("alone", "false")):
            reader = {"MEMOS__READER__MODE": "fine", "MEMOS__READER__CONTINUED": continued}
            folder = Path(name) / form
            folder.mkdir()
            server = Server(folder, home=folder / "home", environment=reader, flags=POLICY)
            with server.running() as running:
                record.rows += measure(Bench(running), repetitions, form)
    record.headline |= headline(record.rows)
    record.finish(quick=arguments.quick, out=arguments.out)


def headline(rows: list[dict[str, Any]]) -> dict[str, Any]:
    found = {f"ttft_over_alone_{row['while'].replace(' ', '_')}": row["over_alone"] for row in rows}
    found.pop("ttft_over_alone_alone", None)
    computed = {row["form"]: row["computed_per_reading"] for row in rows if "form" in row}
    return found | {
        "tokens_computed_per_reading": computed["continued"],
        "tokens_computed_over_own_prompt": round(computed["continued"] / computed["alone"], 3),
    }


Case = Callable[[Bench, int], AbstractContextManager[None]]
"""Competing work, which runs while the context is entered; the number seeds its text."""
ANSWERED = "a person is answered"
READ = {"continued": "a turn is read", "alone": "a turn is read by a prompt of its own"}


class LoadGenerator:
    """Chat requests of other persons in the background, and the errors of those that fail."""

    def __init__(self) -> None:
        self.requests = 0
        self.errors: Counter[str] = Counter()

    def send(self, bench: Bench, chat: dict[str, Any]) -> None:
        self.requests += 1
        try:
            with bench.server.http() as http:
                http.post(CHAT, json=chat).raise_for_status()
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


def measure(bench: Bench, repetitions: int, form: str) -> Iterator[dict[str, Any]]:
    """Rows of one server.

    Args:
        form: of the prompt that reads turns, `continued` or `alone`.
    """
    for case in cases(LoadGenerator(), form).values():  # warm-up: everything that happens once
        with case(bench, 0):
            ask(bench, 1)
    load = LoadGenerator()
    each = cases(load, form)
    before = writer_counts(bench)
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
        if name == READ[form]:
            row |= {"form": form} | per_reading(before, writer_counts(bench), form)
        if name != "alone" or form == "continued":
            yield row | (load.summary() if name == ANSWERED else {})


def per_reading(before: Counter[str], after: Counter[str], form: str) -> dict[str, Any]:
    """Prompt tokens of a reading, over readings of this form; and how many had another form."""
    added = Counter({name: after[name] - before[name] for name in after})
    readings = added[f'requests form="{form}"'] or 1
    return {
        "readings": int(readings),
        "readings_of_another_form": int(
            sum(count for name, count in added.items() if name.startswith("requests")) - readings
        ),
        "computed_per_reading": round(
            added[f'tokens form="{form}",state="computed"'] / readings, 1
        ),
        "cached_per_reading": round(added[f'tokens form="{form}",state="cached"'] / readings, 1),
    }


def writer_counts(bench: Bench) -> Counter[str]:
    """The server's counters of requests and tokens of the memory system."""
    page = bench.http.get("/metrics").text
    return Counter(
        {f"{name} {labels}": float(value) for name, labels, value in _WRITER.findall(page)}
    )


def cases(load: LoadGenerator, form: str) -> dict[str, Case]:
    found: dict[str, Case] = {"alone": alone, READ[form]: reading}
    return found | ({ANSWERED: load.answering} if form == "continued" else {})


def ask(bench: Bench, seed: int) -> float:
    """Seconds to the first token of a new question, which is not remembered."""
    return first_event(bench.http, body(bench, seed, QUESTION, 1, write=False))[0]


@contextmanager
def alone(bench: Bench, seed: int) -> Iterator[None]:
    yield


@contextmanager
def reading(bench: Bench, seed: int) -> Iterator[None]:
    """Have the model read the second turn of a conversation; leaves when it has read it."""
    turn = body(bench, 50_000 + seed, SAID, 1, write=True)
    first = {"role": "user", "content": bench.text(SAID, 60_000 + seed)}
    reply = {"role": "assistant", "content": bench.text(REPLY, 70_000 + seed)}
    before = read(bench)
    bench.http.post(CHAT, json=turn | {"messages": [first]}).raise_for_status()
    wait_until(lambda: read(bench) > before, "the first turn having been read")
    before = read(bench)
    whole = turn | {"messages": [first, reply, *turn["messages"]]}
    bench.http.post(CHAT, json=whole).raise_for_status()
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
