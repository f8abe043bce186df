"""Fairness between tenants: virtual token counters, and a queue in front of the engine.

Virtual Token Counter (Sheng et al., "Fairness in Serving Large Language Models", arXiv 2401.00588,
algorithm 2): each tenant has a counter of the service that it was given, prompt and reply tokens by
weight, over the tenant's own weight.  The tenant with the smallest counter is next.  A counter is raised
("lifted") when its tenant returns, to the smallest of those that ask, so that an idle time saves up
nothing.

The engine cannot take back a request that runs.  So while several tenants ask, only `running` requests are
in it at a time, and the others wait here; a tenant that has fewer than its share of them there is let in
at once, whatever its counter: requests that run and are not served (their clients do not read) cannot
starve it.  So is one that has fewer than half of `running` there, up to the engine's own limit: many small
tenants fill its batch, and a big one is held at `running`.  A tenant that is alone is not held back.

All of it runs on the event loop of one server process.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from memos_vllm import metrics
from memos_vllm.config.limits import FairnessConfig
from memos_vllm.errors import Overloaded, RequestsLimited

LOWEST_PRIORITY = 2**62
"""vLLM serves small numbers first; background work has this one."""
_RUNNING_ON_CPU = 8
_FORGOTTEN_SECONDS = 600.0


@dataclasses.dataclass(slots=True)
class Share:
    """A tenant's part of the engine."""

    weight: float
    counter: float = 0.0
    """Service given, weighted tokens."""
    running: int = 0
    waiting: deque[asyncio.Future[None]] = dataclasses.field(default_factory=deque)
    left: float = 0.0
    """When the last request ended, by the monotonic clock."""

    @property
    def asks(self) -> bool:
        return bool(self.running or self.waiting)


class Turn:
    """A request that may be in the engine."""

    def __init__(self, queue: FairQueue, share: Share, expected_tokens: int) -> None:
        self._queue, self._share = queue, share
        self._expected = expected_tokens
        queue.charge(share, expected_tokens, 0)

    def served(self, prompt_tokens: int, reply_tokens: int) -> None:
        """Charge tokens, the first prompt tokens against those that were expected."""
        paid = min(self._expected, prompt_tokens)
        self._expected -= paid
        self._queue.charge(self._share, prompt_tokens - paid, reply_tokens)

    def close(self) -> None:
        """Give back what was expected and not used."""
        self._queue.charge(self._share, -self._expected, 0)
        self._expected = 0


class FairQueue:
    def __init__(self, config: FairnessConfig) -> None:
        self._config = config
        self._shares: dict[str, Share] = {}
        self._running = 0
        self._waiting = 0
        self._last_left = 0.0
        """Counter of the tenant that was the last to leave an idle server."""
        self._slots = config.running
        self._most: int | None = None
        """Requests of a tenant that is alone; None: no limit."""
        self._has_priorities = False

    def attach(self, *, max_num_seqs: int, on_cpu: bool, has_priorities: bool) -> None:
        """Take the engine's own limits, once it runs.

        Args:
            has_priorities: whether it was started with `--scheduling-policy priority`.
        """
        self._most = max_num_seqs
        if self._slots is None:
            self._slots = min(max_num_seqs, _RUNNING_ON_CPU) if on_cpu else max_num_seqs
        self._has_priorities = has_priorities

    def priority(self, tenant: str, is_background: bool) -> int:
        """vLLM's `priority` of a request; 0 where the engine has none."""
        if not self._has_priorities:
            return 0
        if is_background:
            return LOWEST_PRIORITY
        if not self._config.enabled:
            return 0
        share = self._shares.get(tenant)
        return int(share.counter if share is not None else self._least())

    @asynccontextmanager
    async def turn(self, tenant: str, expected_tokens: int) -> AsyncIterator[Turn]:
        """Wait until the tenant's next request may run; it runs inside the block.

        Args:
            expected_tokens: of the prompt.

        Raises:
            RequestsLimited: too many requests of the tenant wait.
            Overloaded: too many requests wait, or this one has waited for too long.
        """
        share = self._arrive(tenant)
        await self._wait(share)
        turn = Turn(self, share, expected_tokens)
        try:
            yield turn
        finally:
            turn.close()
            self._end(share)

    def charge(self, share: Share, prompt_tokens: int, reply_tokens: int) -> None:
        service = (
            self._config.input_weight * prompt_tokens + self._config.output_weight * reply_tokens
        )
        share.counter += service / share.weight

    # -- inside -----------------------------------------------------------------------------------

    def _arrive(self, tenant: str) -> Share:
        share = self._shares.get(tenant)
        if share is None:
            self._forget_old()
            weight = max(1e-6, self._config.weights.get(tenant, 1.0))
            share = self._shares[tenant] = Share(weight)
        if not share.asks:
            share.counter = max(share.counter, self._least())  # lift
        return share

    def _least(self) -> float:
        """The smallest counter of those that ask; where none does, of the one that left last."""
        counters = [share.counter for share in self._shares.values() if share.asks]
        return min(counters, default=self._last_left)

    def _forget_old(self) -> None:
        before = time.monotonic() - _FORGOTTEN_SECONDS
        for tenant in [t for t, s in self._shares.items() if not s.asks and s.left < before]:
            del self._shares[tenant]

    async def _wait(self, share: Share) -> None:
        if not share.waiting and self._may_run(share, self._asking(share)):
            self._begin(share)
            return
        self._check_room(share)
        entry: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        share.waiting.append(entry)
        self._count_waiting(1)
        started = time.monotonic()
        try:
            self._let_in()
            async with asyncio.timeout(self._config.wait_seconds):
                await entry
        except TimeoutError as error:
            self._give_up(share, entry)
            raise Overloaded(
                f"the request waited for {self._config.wait_seconds:g} s "
                "(governance.fairness.wait_seconds): send fewer at a time",
                retry_after_seconds=5.0,
            ) from error
        except asyncio.CancelledError:
            self._give_up(share, entry)
            raise
        finally:
            self._count_waiting(-1)
            metrics.ADMISSION_SECONDS.observe(time.monotonic() - started)

    def _asking(self, also: Share | None = None) -> tuple[int, float]:
        """(number, weight) of the tenants that ask, or asked a moment ago."""
        recent = time.monotonic() - self._config.hold_seconds
        weights = [
            each.weight
            for each in self._shares.values()
            if each.asks or each.left > recent or each is also
        ]
        return len(weights), sum(weights)

    def _may_run(self, share: Share, asking: tuple[int, float]) -> bool:
        if not self._config.enabled or self._slots is None:
            return True
        tenants, weight = asking
        alone = max(self._slots, self._most or 0)
        if tenants <= 1:
            return self._most is None or self._running < alone
        if self._running < self._slots:
            return True
        part = max(1, int(self._slots * share.weight / weight))
        if share.running < part:
            return self._running < self._slots + alone
        half = self._slots / 2 * min(1.0, share.weight * tenants / weight)
        return share.running < int(half) and self._running < alone

    def _begin(self, share: Share) -> None:
        share.running += 1
        self._running += 1

    def _end(self, share: Share) -> None:
        share.running -= 1
        self._running -= 1
        share.left = time.monotonic()
        if not share.asks:
            self._last_left = share.counter
        self._let_in()

    def _let_in(self) -> None:
        """Let waiting requests in, the tenant with the smallest counter first."""
        while waiting := [share for share in self._shares.values() if share.waiting]:
            asking = self._asking()
            waiting.sort(key=lambda each: each.counter)
            share = next((each for each in waiting if self._may_run(each, asking)), None)
            if share is None:
                return
            entry = share.waiting.popleft()
            if not entry.done():  # else its client has gone away
                self._begin(share)
                entry.set_result(None)

    def _give_up(self, share: Share, entry: asyncio.Future[None]) -> None:
        if entry in share.waiting:
            share.waiting.remove(entry)
        elif not entry.cancelled():  # it was let in at the same moment
            self._end(share)
        self._let_in()

    def _check_room(self, share: Share) -> None:
        if len(share.waiting) >= self._config.waiting_per_tenant:
            raise RequestsLimited(
                f"{len(share.waiting)} requests of the tenant wait already "
                "(governance.fairness.waiting_per_tenant): send fewer at a time",
                retry_after_seconds=1.0,
            )
        if self._waiting >= self._config.waiting:
            raise Overloaded(
                f"{self._waiting} requests wait already (governance.fairness.waiting)",
                retry_after_seconds=1.0,
            )

    def _count_waiting(self, change: int) -> None:
        self._waiting += change
        metrics.ADMISSION_WAITING.set(self._waiting)
