"""Requests and tokens a minute, counted by the library `limits` in memory or in Redis.

Requests are counted by one of the library's strategies.  Tokens are reserved before a request and
settled after it, which no strategy of the library does: a window of a minute is one counter of its
storage, named by the minute, so that a refund goes to the window that paid.  The window before counts by
the share of it that lies within the last 60 s.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage, RedisStorage, Storage
from limits.aio.strategies import STRATEGIES, RateLimiter

from memos_vllm import metrics
from memos_vllm.config.limits import LimitsPolicyConfig
from memos_vllm.errors import ConfigError

log = logging.getLogger(__name__)
T = TypeVar("T")
_MINUTE = 60
_ALONE_SECONDS = 5.0
"""How long a process counts alone after its shared storage did not answer."""
_PREFIX = "memos"


@dataclasses.dataclass(frozen=True, slots=True)
class Standing:
    """What is left of a limit."""

    limit: int
    remaining: int
    reset_seconds: float
    """Until there is more."""
    is_within: bool
    """Whether the request that asked was let in."""


@dataclasses.dataclass(frozen=True, slots=True)
class Reservation:
    """Tokens that a window has paid in advance."""

    storage: Storage
    key: str
    minute: int
    tokens: int


class Windows:
    def __init__(self, config: LimitsPolicyConfig) -> None:
        """
        Raises:
            ConfigError: the storage's URL has another scheme, or its package is missing.
        """
        self._strategy: Callable[[Storage], RateLimiter] = STRATEGIES[config.strategy]
        self._timeout = config.storage_timeout_seconds
        self._local: Storage = MemoryStorage()
        self._shared = _shared(config)
        self._alone_until = 0.0

    async def request(self, owner: str, limit: int) -> Standing:
        """Count a request of an owner, unless it is over the limit."""
        item = RateLimitItemPerMinute(limit, namespace=_PREFIX)

        async def hit(storage: Storage) -> Standing:
            strategy = self._strategy(storage)
            is_within = await strategy.hit(item, "requests", owner)
            stats = await strategy.get_window_stats(item, "requests", owner)
            reset = max(0.0, stats.reset_time - time.time())
            return Standing(limit, max(0, stats.remaining), reset, is_within)

        return await self._with_storage(hit)

    async def reserve(self, owner: str, limit: int, tokens: int) -> tuple[Standing, Reservation]:
        """Take tokens out of an owner's window, unless more would be gone than the limit.

        Args:
            tokens: above the limit: counted as the limit, so that the request can be served at all.
        """
        tokens = min(tokens, limit)

        async def take(storage: Storage) -> tuple[Standing, Reservation]:
            now = time.time()
            minute = int(now // _MINUTE)
            key = _key(owner, minute)
            current = await storage.incr(key, 2 * _MINUTE, tokens)
            before = await storage.get(_key(owner, minute - 1))
            standing = _standing(limit, current=current, before=before, now=now, asked=tokens)
            if not standing.is_within:
                await storage.incr(key, 2 * _MINUTE, -tokens)
                tokens_held = 0
            else:
                tokens_held = tokens
            return standing, Reservation(storage, key, minute, tokens_held)

        return await self._with_storage(take)

    async def settle(self, owner: str, reservation: Reservation, used: int) -> None:
        """Replace reserved tokens by those that were used."""
        difference = used - reservation.tokens
        minute = int(time.time() // _MINUTE)
        key = reservation.key
        if minute - reservation.minute > 1:  # that window counts no longer
            difference, key = max(0, difference), _key(owner, minute)
        if not difference:
            return
        if reservation.storage is not self._local and self._is_alone():
            return

        async def adjust(storage: Storage) -> None:
            if storage is reservation.storage:
                await storage.incr(key, 2 * _MINUTE, difference)

        await self._with_storage(adjust, reservation.storage)

    def _is_alone(self) -> bool:
        return self._shared is None or time.monotonic() < self._alone_until

    async def _with_storage(
        self, work: Callable[[Storage], Awaitable[T]], storage: Storage | None = None
    ) -> T:
        """Run on the shared storage; where it does not answer, on this process's own."""
        if self._shared is not None and storage is not self._local and not self._is_alone():
            known: Any = self._shared.base_exceptions
            errors = known if isinstance(known, tuple) else (known,)
            try:
                async with asyncio.timeout(self._timeout):
                    return await work(self._shared)
            except (*errors, TimeoutError, OSError) as error:
                if self._is_alone():  # another request has noticed it meanwhile
                    return await work(self._local)
                self._alone_until = time.monotonic() + _ALONE_SECONDS
                metrics.LIMITS_DEGRADED.inc()
                log.warning(
                    "the storage of limits does not answer, this process counts alone for %.0f s: %s",
                    _ALONE_SECONDS,
                    error or type(error).__name__,
                )
        return await work(self._local)


def owner_of(tenant: str, person: str = "") -> str:
    """Name of a tenant's or a person's counters; people stand in it as digests."""
    if not person:
        return f"t:{tenant}"
    digest = hashlib.sha256(f"{tenant}\x00{person}".encode("utf-8", "surrogatepass"))
    return f"p:{digest.hexdigest()[:32]}"


def _key(owner: str, minute: int) -> str:
    return f"{_PREFIX}/tokens/{owner}/{minute}"


def _standing(limit: int, *, current: int, before: int, now: float, asked: int) -> Standing:
    """
    Args:
        current: tokens of this minute, with those that are asked for.
        before: tokens of the minute before.
    """
    passed = now % _MINUTE
    left = _MINUTE - passed
    weighted = before * left / _MINUTE
    if weighted + current <= limit:
        return Standing(limit, int(limit - weighted - current), left, True)
    held = current - asked
    if before and held + asked <= limit:  # as this window leaves the one before behind
        reset = (weighted + current - limit) / before * _MINUTE
    else:  # in the next window, as that leaves this one behind
        reset = left + max(0, current - limit) / max(1, held) * _MINUTE
    return Standing(limit, max(0, int(limit - weighted - held)), reset, False)


def _shared(config: LimitsPolicyConfig) -> Storage | None:
    scheme = config.storage_url.partition("://")[0]
    if scheme == "memory":
        return None
    if scheme not in ("redis", "rediss", "redis+unix"):
        raise ConfigError(
            f"governance.limits.storage_url: `{scheme}://` is no storage of limits; use memory:// or "
            "redis://HOST:PORT/DB"
        )
    try:
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
    except ImportError as error:
        raise ConfigError(
            "governance.limits.storage_url names Redis: pip install 'memos-vllm[redis]'"
        ) from error
    options: dict[str, Any] = {
        "socket_timeout": config.storage_timeout_seconds,
        "socket_connect_timeout": config.storage_timeout_seconds,
        "retry": Retry(NoBackoff(), 0),
    }
    return RedisStorage(
        f"async+{config.storage_url}",
        implementation="redispy",
        key_prefix=_PREFIX,
        **options,
    )
