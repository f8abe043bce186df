"""Erasures of persons: their records, and what each process knows of them.

`Erasures` polls the table, so that every replica stops to use what it holds of an erased person: salts and
scopes of KV get the number of the erasure, and listeners drop what they cached.
"""

from __future__ import annotations

import bisect
import dataclasses
import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from memos_vllm.cube.ids import PersonId, TenantId, now_us, to_datetime
from memos_vllm.errors import NotFound, VaultUnavailable
from memos_vllm.governance.principal import Principal
from memos_vllm.governance.salt import Isolation
from memos_vllm.vault import fence
from memos_vllm.vault.database import Database
from memos_vllm.vault.erasure_tables import ErasureRow
from memos_vllm.vault.jobs import ERASE, JobRowState
from memos_vllm.vault.tables import JobRow

log = logging.getLogger(__name__)
POLL_SECONDS = 1.0
_ALL = ""
"""Key of a tenant's erasures, where the whole tenant shares the prefix cache."""

IsErased = Callable[[str, str], bool]
"""Whether (tenant, person) was erased since the last call of the listener."""


class ErasureState(StrEnum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    """Set aside after its last attempt: `memos jobs failed --retry`."""


@dataclasses.dataclass(frozen=True, slots=True)
class Erasure:
    id: str
    serial: int
    tenant: TenantId
    subject: str
    """Keyed digest of the person."""
    person: PersonId
    """Empty once it is done."""
    state: ErasureState
    progress: Mapping[str, Any]
    work: Mapping[str, Any]
    receipt: Mapping[str, Any] | None
    created: datetime
    finished: datetime | None


class Erasures:
    def __init__(self, database: Database, isolation: Isolation) -> None:
        self._database, self._isolation = database, isolation
        self._serials: dict[str, dict[str, list[int]]] = {}
        """Serial numbers by tenant and digest, ascending."""
        self._key = b""
        self._listeners: list[Callable[[IsErased], None]] = []
        self._untold: list[tuple[Callable[[IsErased], None], IsErased]] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.serial = 0
        """Number of the last erasure that this process knows."""
        self.learnt = 0
        """Of the last one of which all listeners know: nothing older is cached any more."""

    def start(self) -> None:
        """Read the table, and poll it from a thread. Raises VaultUnavailable."""
        self.refresh()
        self._thread = threading.Thread(target=self._run, name="memos-erasures", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def listen(self, *listeners: Callable[[IsErased], None]) -> None:
        """Call functions, from any thread, when persons were erased by any process."""
        self._listeners.extend(listeners)

    def refresh(self) -> None:
        """Read what is new, and call the listeners. Raises VaultUnavailable."""
        with self._lock:
            query = select(ErasureRow.tenant, ErasureRow.subject, ErasureRow.serial)
            query = query.where(ErasureRow.serial > self.serial).order_by(ErasureRow.serial)
            with self._database.read() as session:
                rows = session.execute(query).all()
                if not rows:
                    self._tell()
                    return
                self._key = self._key or fence.subject_key(session)
            known = {tenant: dict(found) for tenant, found in self._serials.items()}
            fresh: dict[str, set[str]] = defaultdict(set)
            for tenant, subject, serial in rows:
                for key in (subject, _ALL):
                    of_tenant = known.setdefault(tenant, {})
                    of_tenant[key] = [*of_tenant.get(key, ()), serial]
                fresh[tenant].add(subject)
            self._serials, self.serial = known, rows[-1].serial

            def is_erased(tenant: str, person: str) -> bool:
                return tenant in fresh and fence.digest(self._key, tenant, person) in fresh[tenant]

            self._untold += [(listener, is_erased) for listener in self._listeners]
            self._tell()

    def generation(self, principal: Principal) -> int:
        """Number of the person's last erasure (of the tenant's, where it shares the prefix cache) when
        the principal's work began; 0: there was none."""
        of_tenant = self._serials.get(principal.tenant)
        if of_tenant is None:
            return 0
        isolation = self._isolation
        kind = isolation if isinstance(isolation, str) else isolation(principal.tenant)
        if kind == "tenant":
            serials = of_tenant[_ALL]
        else:
            name = fence.digest(self._key, principal.tenant, principal.person)
            serials = of_tenant.get(name, [])
        known = (
            len(serials)
            if principal.epoch is None
            else bisect.bisect_right(serials, principal.epoch)
        )
        return serials[known - 1] if known else 0

    # -- records ----------------------------------------------------------------------------------

    def get(self, tenant: TenantId, erasure: str) -> Erasure:
        """Raises NotFound."""
        with self._database.read() as session:
            row = session.get(ErasureRow, erasure)
            if row is None or row.tenant != tenant:
                raise NotFound(f"there is no erasure {erasure!r} here", param="erasure")
            return _model(session, row)

    def find(self, erasure: str) -> Erasure | None:
        """For workers: in any tenant."""
        with self._database.read() as session:
            row = session.get(ErasureRow, erasure)
            return _model(session, row) if row is not None else None

    def page(self, tenant: TenantId, limit: int = 50) -> list[Erasure]:
        """Newest first."""
        query = select(ErasureRow).where(ErasureRow.tenant == tenant)
        with self._database.read() as session:
            rows = session.scalars(query.order_by(ErasureRow.serial.desc()).limit(limit))
            return [_model(session, row) for row in rows]

    def subject_key(self) -> bytes:
        with self._database.read() as session:
            return fence.subject_key(session)

    def note(self, erasure: str, step: str, **work: Any) -> None:
        """Record the step that runs, and what a repetition must know."""
        with self._database.write() as session:
            row = session.get(ErasureRow, erasure)
            if row is not None and row.receipt is None:
                row.progress = {"step": step}
                row.work = {**row.work, **work}

    # -- inside -----------------------------------------------------------------------------------

    def _tell(self) -> None:
        """Call the listeners; one that raises is called again at the next poll."""
        while self._untold:
            listener, is_erased = self._untold[0]
            listener(is_erased)
            self._untold.pop(0)
        self.learnt = self.serial

    def _run(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            try:
                self.refresh()
            except VaultUnavailable as error:
                log.warning("erasures of other processes are not known yet: %s", error)


def finish(session: Session, erasure: str, receipt: Mapping[str, Any]) -> None:
    """Store the receipt and erase the name."""
    row = session.get(ErasureRow, erasure)
    if row is not None and row.receipt is None:
        row.receipt, row.person, row.work = dict(receipt), "", {}
        row.state, row.progress = ErasureState.DONE, {}
        row.finished_us = now_us()


def _model(session: Session, row: ErasureRow) -> Erasure:
    state = ErasureState(row.state)
    job = select(JobRow.state).where(JobRow.name == ERASE, JobRow.subject == row.id)
    if state is ErasureState.RUNNING and session.scalar(job) == JobRowState.FAILED:
        state = ErasureState.FAILED
    return Erasure(
        row.id,
        row.serial,
        TenantId(row.tenant),
        row.subject,
        PersonId(row.person),
        state,
        dict(row.progress),
        dict(row.work),
        dict(row.receipt) if row.receipt is not None else None,
        to_datetime(row.created_us),
        to_datetime(row.finished_us) if row.finished_us is not None else None,
    )
