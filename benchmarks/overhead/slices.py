"""Slices: a few requests to our server and to bare vLLM in turn, and the ratios of their pairs."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import httpx

from benchmarks.overhead.reference import limit, reference_seconds
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
"""vLLM's processes spin for a second after a request: on a small machine, a second of the next server."""
SETTLE_SECONDS = 0.1
"""Threads of the reference computation spin for a while, too."""
_people = itertools.count()


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds from sending a request to its first event, and from there on per output token."""

    ttft: float
    tpot: float


Send = Callable[[str], Timing]


@dataclasses.dataclass(frozen=True)
class Size:
    """Size of a run: slices per case and start, requests per server in a slice, length of a prompt."""

    slices: int
    requests: int
    words: int


@dataclasses.dataclass(frozen=True)
class Slice:
    start: int
    """Which start of the servers, from 0."""
    case: str
    reference: float
    """The slower of two reference times, in seconds: one before each server's requests."""
    ours: list[Timing]
    bare: list[Timing]


def sender(server: Server, key: str | None, tokens: int, memory: dict[str, Any] | None) -> Send:
    """Send a prompt, streaming. Bare vLLM ignores the field `memory`: both servers get the same bytes.

    Args:
        tokens: length of the reply.
        memory: the request's field; with None, each request is a new person's, and its turn is
            remembered: nothing that an earlier one said can be injected.
    """
    client = server.http(key)

    def send(prompt: str) -> Timing:
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": tokens,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
            "user": "someone" if memory is not None else f"person-{next(_people)}",
            "memory": memory or {},
        }
        return _timed(client, body)

    return send


def _timed(client: httpx.Client, body: dict[str, Any]) -> Timing:
    started = time.perf_counter()
    events = []
    with client.stream("POST", "/v1/chat/completions", json=body) as reply:
        reply.raise_for_status()
        for line in reply.iter_lines():
            if line.startswith("data: {"):
                events.append((time.perf_counter(), line))
    # The event that ends the reply, not one with usage or memory behind it.
    last = max(at for at, line in events if json.loads(line[6:])["choices"])
    first = events[0][0]
    return Timing(first - started, (last - first) / (body["max_tokens"] - 1))


def measure(start: int, cases: dict[str, tuple[Send, Send]], size: Size) -> list[Slice]:
    """Slices of one start. Cases take turns, and so does the server that comes first."""
    for ours, bare in cases.values():
        for send in (ours, bare):
            send(_prompt(size.words))  # warm up
    found = []
    for number in range(size.slices):
        for place, (case, senders) in enumerate(cases.items()):
            ours_first = (number + place + start) % 2 == 0
            found.append(_slice(start, case, senders, size, ours_first))
    return found


def _slice(
    start: int, case: str, senders: tuple[Send, Send], size: Size, ours_first: bool
) -> Slice:
    prompts = [_prompt(size.words) for _ in range(size.requests)]
    timings: dict[int, list[Timing]] = {}
    references = []
    for which in (0, 1) if ours_first else (1, 0):
        time.sleep(IDLE_SECONDS)
        references.append(reference_seconds())
        time.sleep(SETTLE_SECONDS)
        timings[which] = [senders[which](prompt) for prompt in prompts]
    return Slice(start, case, max(references), timings[0], timings[1])


def _prompt(words: int) -> str:
    """Random words: no prefix cache holds them."""
    return " ".join(random.choices(WORDS, k=words))


def rows_of(slices: Sequence[Slice], *, drop: bool = True) -> list[dict[str, Any]]:
    """A row per case: ratios of pairs, without the slices in which the machine was slow.

    Args:
        drop: false in a smoke run, which has too few slices to lose any.

    Raises:
        RuntimeError: a case has no slice left.
    """
    longest = limit([each.reference for each in slices]) if drop else float("inf")
    rows = []
    for case in dict.fromkeys(each.case for each in slices):
        mine = [each for each in slices if each.case == case]
        used = [each for each in mine if each.reference <= longest]
        if not used:
            raise RuntimeError(f"the machine was too busy: no slice of {case!r} is left")
        rows.append(_row(case, used) | {"slices": len(mine), "dropped": len(mine) - len(used)})
    return rows


def _row(case: str, used: Sequence[Slice]) -> dict[str, Any]:
    row: dict[str, Any] = {"case": case, "pairs": sum(len(each.ours) for each in used)}
    for measure_ in ("ttft", "tpot"):
        ratios: dict[int, list[float]] = {}
        for each in used:
            pairs = zip(each.ours, each.bare, strict=True)
            ratios.setdefault(each.start, []).extend(
                getattr(ours, measure_) / getattr(bare, measure_) for ours, bare in pairs
            )
        every = [ratio for some in ratios.values() for ratio in some]
        low, _, high = statistics.quantiles(every, n=4) if len(every) > 1 else 3 * every
        row |= {
            f"{measure_}_ratio_median": round(statistics.median(every), 4),
            f"{measure_}_ratio_p25": round(low, 4),
            f"{measure_}_ratio_p75": round(high, 4),
            f"{measure_}_ratio_by_start": [
                round(statistics.median(some), 4) for _, some in sorted(ratios.items())
            ],
            f"{measure_}_ms_bare": round(
                1000 * statistics.median(getattr(t, measure_) for each in used for t in each.bare),
                2,
            ),
        }
    return row
