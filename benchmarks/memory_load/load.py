"""Open-loop load generator: requests are sent on schedule, regardless of earlier requests.

A closed loop waits for an answer before the next request, so a slow server gets fewer requests and its
latency looks better.  Here latency is counted from the scheduled arrival and includes time in queues, the
client's own included.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import numpy as np

Request = Callable[[int], Coroutine[Any, Any, object]]
"""Sends the request with this number. Raises Failed."""

TIMEOUT_SECONDS = 10.0
"""A request without an answer this long after its arrival has failed."""
CONNECTIONS = 64
"""Concurrent requests; further ones wait in the client, and the wait counts as latency."""


class Failed(Exception):
    """A request had no answer, an error, or a degraded answer."""


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    latency_ms: float
    """From the scheduled arrival to the answer or the failure."""
    done_seconds: float
    """Seconds from the start of the schedule."""
    error: str | None


def arrivals(rate: float, seconds: float, seed: int = 0) -> list[float]:
    """Scheduled arrivals: a Poisson process conditioned on exactly `rate * seconds` arrivals."""
    chance = random.Random(f"{rate} {seconds} {seed}")
    return sorted(chance.uniform(0, seconds) for _ in range(round(rate * seconds)))


async def offer(
    due_seconds: Sequence[float],
    request: Request,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> list[Outcome]:
    """Send request `n` at `due_seconds[n]`; returns when each has an answer or has failed.

    A server still works on a request that timed out: the request keeps its connection until it is answered,
    and this function waits for that, so that no load overlaps the next.
    """
    free = asyncio.Semaphore(CONNECTIONS)
    sent: list[asyncio.Task[object]] = []
    start = time.perf_counter()

    async def made(number: int) -> None:
        await free.acquire()
        sent.append(asyncio.create_task(request(number)))
        sent[-1].add_done_callback(lambda _: free.release())
        await asyncio.shield(sent[-1])

    async def one(number: int, due: float) -> Outcome:
        await asyncio.sleep(start + due - time.perf_counter())
        error = None
        try:
            await asyncio.wait_for(
                made(number), start + due + timeout_seconds - time.perf_counter()
            )
        except TimeoutError:
            error = f"no answer within {timeout_seconds:.0f} s"
        except Failed as failed:
            error = str(failed)
        done = time.perf_counter() - start
        return Outcome(1000 * (done - due), done, error)

    outcomes = await asyncio.gather(*(one(n, due) for n, due in enumerate(due_seconds)))
    await asyncio.gather(*sent, return_exceptions=True)
    return outcomes


def summary(outcomes: Sequence[Outcome], seconds: float) -> dict[str, float | int | str | None]:
    """Success, rate and latencies of all requests; one that timed out counts with the timeout."""
    latencies = [outcome.latency_ms for outcome in outcomes]
    errors = [outcome.error for outcome in outcomes if outcome.error]
    answered = len(outcomes) - len(errors)
    p50, p90, p99 = (round(float(np.percentile(latencies, at)), 1) for at in (50, 90, 99))
    return {
        "requests": len(outcomes),
        "success_rate": round(answered / len(outcomes), 4),
        "rate_achieved": round(answered / max(seconds, *(o.done_seconds for o in outcomes)), 1),
        "ms_mean": round(float(np.mean(latencies)), 1),
        "ms_p50": p50,
        "ms_p90": p90,
        "ms_p99": p99,
        "first_error": errors[0] if errors else None,
    }
