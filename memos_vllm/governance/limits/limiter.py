"""Rates and concurrency of tenants and people: let a request in, or say when to come again."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from memos_vllm.cube.ids import PersonId, TenantId
from memos_vllm.errors import RequestsLimited, TokensLimited
from memos_vllm.governance.limits.policy import LimitsOf
from memos_vllm.governance.limits.pressure import Pressure
from memos_vllm.governance.limits.windows import Reservation, Standing, Windows, owner_of

_CONCURRENCY_RETRY_SECONDS = 1.0


@dataclasses.dataclass
class Admission:
    """A request that was let in, and what it holds."""

    tenant: TenantId
    requests: Standing | None = None
    """The tightest of the limits of requests a minute; None: there is none."""
    tokens: Standing | None = None
    reservations: list[tuple[str, Reservation]] = dataclasses.field(default_factory=list)
    """(owner, tokens taken in advance)"""

    @property
    def reserved(self) -> int:
        return max((each.tokens for _, each in self.reservations), default=0)

    def headers(self) -> dict[str, str]:
        """OpenAI's `x-ratelimit-*` headers."""
        made = {}
        for name, standing in (("requests", self.requests), ("tokens", self.tokens)):
            if standing is not None:
                made[f"x-ratelimit-limit-{name}"] = str(standing.limit)
                made[f"x-ratelimit-remaining-{name}"] = str(standing.remaining)
                made[f"x-ratelimit-reset-{name}"] = duration(standing.reset_seconds)
        return made


class Limiter:
    def __init__(self, limits_of: LimitsOf, windows: Windows, pressure: Pressure) -> None:
        self._limits_of, self._windows, self._pressure = limits_of, windows, pressure
        self._running: Counter[str] = Counter()

    @contextmanager
    def running(self, tenant: TenantId, person: PersonId | None = None) -> Iterator[None]:
        """A request of a tenant (None), or of a person, at work.

        Raises:
            RequestsLimited: as many as allowed are at work.
        """
        limits = self._limits_of(tenant)
        most = limits.concurrent_requests if person is None else limits.person_concurrent_requests
        if most is None or person == "":
            yield
            return
        owner = owner_of(tenant, person or "")
        if self._running[owner] >= most:
            whose = "the tenant" if person is None else "the person"
            self._pressure.refused(tenant)
            key = "concurrent_requests" if person is None else "person_concurrent_requests"
            raise RequestsLimited(
                f"{most} requests of {whose} are at work already (governance.limits.{key}): wait for one "
                "of them",
                retry_after_seconds=_CONCURRENCY_RETRY_SECONDS,
            )
        self._running[owner] += 1
        try:
            yield
        finally:
            self._running[owner] -= 1
            if not self._running[owner]:
                del self._running[owner]

    def counts_tokens(self, tenant: TenantId) -> bool:
        limits = self._limits_of(tenant)
        return (limits.tokens_per_minute or limits.person_tokens_per_minute) is not None

    def counts_people(self, tenant: TenantId) -> bool:
        limits = self._limits_of(tenant)
        return (
            limits.person_requests_per_minute
            or limits.person_tokens_per_minute
            or limits.person_concurrent_requests
        ) is not None

    async def request(self, admission: Admission, person: PersonId | None = None) -> None:
        """Count a request of the tenant (None), or of a person.

        Raises:
            RequestsLimited
        """
        limits = self._limits_of(admission.tenant)
        most = limits.requests_per_minute if person is None else limits.person_requests_per_minute
        if most is None or person == "":
            return
        standing = await self._windows.request(owner_of(admission.tenant, person or ""), most)
        admission.requests = tightest(admission.requests, standing)
        if not standing.is_within:
            self._pressure.refused(admission.tenant)
            raise RequestsLimited(
                f"Rate limit reached for {'the tenant' if person is None else 'the person'} on requests "
                f"per minute: limit {most}. Try again in {duration(standing.reset_seconds)}",
                retry_after_seconds=standing.reset_seconds,
            )

    async def reserve(self, admission: Admission, person: PersonId, tokens: int) -> None:
        """Take a request's expected tokens out of the windows of its tenant and its person.

        Raises:
            TokensLimited: nothing is taken.
        """
        limits = self._limits_of(admission.tenant)
        wanted = [("the tenant", limits.tokens_per_minute, owner_of(admission.tenant))]
        if person:
            owner = owner_of(admission.tenant, person)
            wanted.append(("the person", limits.person_tokens_per_minute, owner))
        for whose, most, owner in wanted:
            if most is None:
                continue
            standing, reservation = await self._windows.reserve(owner, most, tokens)
            admission.tokens = tightest(admission.tokens, standing)
            if not standing.is_within:
                await self.settle(admission, 0)
                self._pressure.refused(admission.tenant)
                raise TokensLimited(
                    f"Rate limit reached for {whose} on tokens per minute: limit {most}, requested "
                    f"{min(tokens, most)}, left {standing.remaining}. Try again in "
                    f"{duration(standing.reset_seconds)}",
                    retry_after_seconds=standing.reset_seconds,
                )
            admission.reservations.append((owner, reservation))

    async def settle(self, admission: Admission, used: int) -> None:
        """Replace the expected tokens by those that were used."""
        taken, admission.reservations = admission.reservations, []
        for owner, reservation in taken:
            await self._windows.settle(owner, reservation, used)


def tightest(first: Standing | None, second: Standing) -> Standing:
    if first is None or second.remaining / second.limit < first.remaining / first.limit:
        return second
    return first


def duration(seconds: float) -> str:
    """A time span as OpenAI writes it: `120ms`, `1s`, `6m0s`, `1h0m5s`."""
    milliseconds = round(max(0.0, seconds) * 1000)
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    whole, rest = divmod(milliseconds, 1000)
    minutes, whole = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    text = f"{hours}h" if hours else ""
    text += f"{minutes}m" if minutes or hours else ""
    return f"{text}{whole + rest / 1000:.3g}s" if not minutes and not hours else f"{text}{whole}s"
