"""An open-loop load: requests arrive when the schedule says, however long the ones before them take.

A closed loop waits for an answer before it asks again, so a slow server is asked less and looks
better than it is.  Here a latency is counted from the moment that the request was due: time in
queues, the client's own included, is part of it.
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
"""Makes the request of that number. Raises Failed."""

TIMEOUT_SECONDS = 10.0
"""A request without its answer so long after it was due has failed."""
CONNECTIONS = 64
"""Requests on their way at once; more wait on our side, their clocks running."""


class Failed(Exception):
    """A request got no answer, an error, or one that a part of the system was missing from."""


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    latency_ms: float
    """From when it was due; of a failed one, at least what it took to fail."""
    done_seconds: float
    """After the schedule's beginning."""
    error: str | None


def arrivals(rate: float, seconds: float, seed: int = 0) -> list[float]:
    """When requests are due: a Poisson process in which exactly `rate * seconds` arrive."""
    chance = random.Random(f"{rate} {seconds} {seed}")
    return sorted(chance.uniform(0, seconds) for _ in range(round(rate * seconds)))


async def offer(
    due_seconds: Sequence[float],
    request: Request,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> list[Outcome]:
    """Make request `n` at `due_seconds[n]`; returns when each has its answer or has failed.

    A server does not know that nobody waits any more: what has timed out keeps its connection until it
    is answered, and is answered before this returns, so no load runs into the next.
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
    """Latencies are those of all requests: what timed out counts with its limit, not as if it had
    never been asked."""
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
