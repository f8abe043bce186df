"""Quotas of what is stored, checked in the transaction that stores it.

A person's use is a row of `owners`, which each write of the person changes anyway: exact.  A tenant's use
is the sum over its persons, read at most every two seconds in each process; in between, the process adds
its own writes.  No row is shared by all writers of a tenant.  So several processes can exceed a tenant's
quota together by what they write in that time, and no more.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from memos_vllm.cube.ids import now_us
from memos_vllm.errors import QuotaExceeded
from memos_vllm.governance.limits.policy import LimitsOf
from memos_vllm.governance.principal import Principal
from memos_vllm.vault.tables import OwnerRow, TrainingUseRow
from memos_vllm.vault.upsert import insert_absent

if TYPE_CHECKING:
    from memos_vllm.vault.database import Database

_REFRESH_SECONDS = 2.0
_SHARE_OF_TIME = 0.02
"""Largest share of a process's time that reading the sums may take."""
_DAY_SECONDS = 86_400
_WHAT = {
    "cubes": "cubes",
    "items": "items",
    "text_bytes": "bytes of text",
    "adapters": "adapters",
    "adapter_bytes": "bytes of adapters",
    "responses": "stored responses",
    "response_bytes": "bytes of stored responses",
}
_OF_PERSON = ("cubes", "items", "text_bytes", "responses", "response_bytes")
_WAY_OUT = dict.fromkeys(
    ("responses", "response_bytes"),
    "delete some (`DELETE /v1/responses/{id}`, `DELETE /v1/conversations/{id}`), or send `store: false`",
)
_OF_TURNS = ("cubes", "items", "text_bytes")
_ADMITTED: ContextVar[bool] = ContextVar("memos_quota_admitted", default=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Use:
    """What an owner or a tenant stores, or a change of it."""

    cubes: int = 0
    items: int = 0
    text_bytes: int = 0
    adapters: int = 0
    adapter_bytes: int = 0
    responses: int = 0
    response_bytes: int = 0

    def __add__(self, other: Use) -> Use:
        return Use(*(getattr(self, name) + getattr(other, name) for name in _WHAT))

    def __sub__(self, other: Use) -> Use:
        return Use(*(getattr(self, name) - getattr(other, name) for name in _WHAT))


_OF_A_TURN = Use(**dict.fromkeys(_OF_TURNS, 1))


@dataclasses.dataclass(frozen=True, slots=True)
class _Known:
    use: Use
    until: float
    """By the monotonic clock; then the sum is read again."""


@contextmanager
def admitted() -> Iterator[None]:
    """Writes inside are counted and not refused: their turn was accepted before."""
    token = _ADMITTED.set(True)
    try:
        yield
    finally:
        _ADMITTED.reset(token)


class Quotas:
    def __init__(self, limits_of: LimitsOf) -> None:
        self._limits_of = limits_of
        self._known: dict[str, _Known] = {}
        self._in_flight: dict[int, dict[str, Use]] = {}
        """Changes by transaction and tenant."""
        self._lock = threading.Lock()
        self._reading = threading.Lock()

    def changed(self, session: Session, tenant: str, person: str, change: Use) -> None:
        """Check a change that the transaction has written to the owner's row.

        Raises:
            QuotaExceeded: roll back.
        """
        grows = [name for name in _WHAT if getattr(change, name) > 0]
        limits = self._limits_of(tenant)
        if all(getattr(limits, name) is None for name in _WHAT):
            self._check_person(session, tenant, person, grows)
            return
        use = self._add(session, tenant, change)
        for name in grows if not _ADMITTED.get() else ():
            if problem := _problem(name, getattr(limits, name), getattr(use, name)):
                raise QuotaExceeded(problem)
        self._check_person(session, tenant, person, grows)

    def ended(self, session: Session, is_committed: bool) -> None:
        """The transaction has ended: what it changed is in the sums, or never was."""
        with self._lock:
            for tenant, change in self._in_flight.pop(id(session), {}).items():
                known = self._known.get(tenant)
                if known is not None and not is_committed:
                    self._known[tenant] = dataclasses.replace(known, use=known.use - change)

    def full(
        self, database: Database, principal: Principal, change: Use = _OF_A_TURN
    ) -> str | None:
        """Why a change of the principal's has no room; None: it has. Reads the database.

        Args:
            change: what would be added; default: a turn.
        """
        tenant, limits = principal.tenant, self._limits_of(principal.tenant)
        grows = [name for name in _WHAT if getattr(change, name) > 0]
        of_tenant = [name for name in grows if getattr(limits, name) is not None]
        of_person = [
            name
            for name in grows
            if name in _OF_PERSON and getattr(limits, f"person_{name}") is not None
        ]
        if not of_tenant and not of_person:
            return None
        with database.read() as session:
            if of_tenant:
                use = self._use(session, tenant)
                for name in of_tenant:
                    used = getattr(use, name) + getattr(change, name)
                    if found := _problem(name, getattr(limits, name), used):
                        return found
            row = session.get(OwnerRow, (tenant, principal.person)) if of_person else None
            for name in of_person:
                limit = getattr(limits, f"person_{name}")
                used = getattr(row, name, 0) + getattr(change, name)
                if found := _problem(name, limit, used, "person_"):
                    return found
        return None

    def limits_turns(self, tenant: str) -> bool:
        """Whether `full` has anything to look at."""
        limits = self._limits_of(tenant)
        names = [*_OF_TURNS, *(f"person_{name}" for name in _OF_TURNS)]
        return any(getattr(limits, name) is not None for name in names)

    def stored(self, database: Database, tenant: str, person: str | None = None) -> Use:
        """What a person stores, or a tenant with all its persons (None); read now."""
        columns = [func.coalesce(func.sum(getattr(OwnerRow, name)), 0) for name in _WHAT]
        query = select(*columns).where(OwnerRow.tenant == tenant)
        if person is not None:
            query = query.where(OwnerRow.person == person)
        with database.read() as session:
            return Use(*(int(each) for each in session.execute(query).one()))

    # -- training ---------------------------------------------------------------------------------

    def training_left(self, database: Database, tenant: str) -> float | None:
        """Seconds of training that a tenant has left today (UTC); None: no limit."""
        minutes = self._limits_of(tenant).training_minutes_per_day
        if minutes is None:
            return None
        with database.read() as session:
            row = session.get(TrainingUseRow, (tenant, _today()))
            return max(0.0, 60 * minutes - (row.seconds if row is not None else 0))

    def check_training(self, database: Database, tenant: str) -> None:
        """Raises QuotaExceeded: the tenant's training of today is used up."""
        left = self.training_left(database, tenant)
        if left is not None and left <= 0:
            raise QuotaExceeded(
                "the tenant's training of today is used up "
                "(governance.limits.training_minutes_per_day); the day ends at 00:00 UTC",
                retry_after_seconds=seconds_of_today(),
            )

    @staticmethod
    def trained(database: Database, tenant: str, seconds: float) -> None:
        """Add to a tenant's training of today."""
        with database.write() as session:
            day = _today()
            insert_absent(session, TrainingUseRow, tenant=tenant, day=day, seconds=0)
            row = session.get_one(TrainingUseRow, (tenant, day), with_for_update=True)
            row.seconds += round(seconds)

    # -- inside -----------------------------------------------------------------------------------

    def _add(self, session: Session, tenant: str, change: Use) -> Use:
        """The tenant's use with a change that this transaction has written."""
        with self._lock:
            own = self._in_flight.setdefault(id(session), {})
            own[tenant] = own.get(tenant, Use()) + change
            known = self._known.get(tenant)
            if known is not None and time.monotonic() < known.until:
                self._known[tenant] = dataclasses.replace(known, use=known.use + change)
                return known.use + change
        with self._reading:
            return self._read(session, tenant)

    def _use(self, session: Session, tenant: str) -> Use:
        with self._lock:
            known = self._known.get(tenant)
        if known is not None and time.monotonic() < known.until:
            return known.use
        with self._reading:
            return self._read(session, tenant)

    def _read(self, session: Session, tenant: str) -> Use:
        started = time.monotonic()
        columns = [func.coalesce(func.sum(getattr(OwnerRow, name)), 0) for name in _WHAT]
        sums = session.execute(select(*columns).where(OwnerRow.tenant == tenant)).one()
        use = Use(*(int(each) for each in sums))
        now = time.monotonic()
        until = now + max(_REFRESH_SECONDS, (now - started) / _SHARE_OF_TIME)
        with self._lock:
            for other, changes in self._in_flight.items():
                if other != id(session) and tenant in changes:
                    use = use + changes[tenant]  # not committed: the sums do not have it
            self._known[tenant] = _Known(use, until)
        return use

    def _check_person(self, session: Session, tenant: str, person: str, grows: list[str]) -> None:
        limits = self._limits_of(tenant)
        names = [n for n in _OF_PERSON if n in grows and getattr(limits, f"person_{n}") is not None]
        if not names or not person or _ADMITTED.get():
            return
        columns = [getattr(OwnerRow, name) for name in names]
        owner = (OwnerRow.tenant == tenant, OwnerRow.person == person)
        row = session.execute(select(*columns).where(*owner)).one()
        for name, used in zip(names, row, strict=True):
            problem = _problem(name, getattr(limits, f"person_{name}"), used, "person_")
            if problem is not None:
                raise QuotaExceeded(problem)


def seconds_of_today() -> float:
    """Until the next day (UTC)."""
    return _DAY_SECONDS - now_us() / 1_000_000 % _DAY_SECONDS


def _problem(name: str, limit: int | None, used: int, prefix: str = "") -> str | None:
    if limit is None or used <= limit:
        return None
    whose = "person" if prefix else "tenant"
    way_out = _WAY_OUT.get(name, "delete some, older versions count, too")
    return (
        f"the {whose}'s quota of {_WHAT[name]} is full: {limit} (governance.limits.{prefix}{name}); "
        f"{way_out}"
    )


def _today() -> int:
    return now_us() // (_DAY_SECONDS * 1_000_000)
