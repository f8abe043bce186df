"""Reads of memory by prompts: from the journal into the audit log.

A read is recorded with its plan, after the reply.  What a killed process had in its journal, and what the
database did not take, is recorded from the journal, with `recovered` and the time of the read (`at_us`).
A read is never lost; after a kill between both steps it may be recorded twice, under the same request.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

from sqlalchemy.orm import Session

from memos_vllm import metrics
from memos_vllm.cube.ids import PersonId, TenantId, new_id, now_us
from memos_vllm.errors import AuditUnavailable, ConfigError, VaultUnavailable
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.governance.read_journal import Read, ReadJournal
from memos_vllm.vault import audit
from memos_vllm.vault.database import Database
from memos_vllm.vault.tables import PlanRow

log = logging.getLogger(__name__)


def read_of(principal: Principal, request_id: str, cubes: Sequence[str]) -> Read:
    return Read(
        new_id("read"),
        now_us(),
        principal.tenant,
        principal.person,
        principal.key_id,
        principal.token_id,
        request_id,
        tuple(sorted(set(cubes))),
    )


def _has_plan(session: Session, read: Read) -> bool:
    """Whether the plan of this read is stored: its record is in the same transaction.

    Ids of requests come from clients: the plan has to be of the same person, cubes and time.
    """
    plan = session.get(PlanRow, (read.tenant, read.request_id[:300]))
    if plan is None or plan.person != read.person or plan.created_us < read.at_us:
        return False
    used = [entry for entry in plan.plan.get("entries", []) if entry.get("decision") == "used"]
    return {f"{entry['cube']}@{entry['version']}" for entry in used} == set(read.cubes)


class AuditReads:
    def __init__(self, database: Database, journal: ReadJournal) -> None:
        self._database, self.journal = database, journal
        self._unrecorded: list[Read] = []
        self._lock = threading.Lock()

    def recorded(self, read: Read) -> None:
        """The log has the record."""
        self.journal.settle(read)

    def not_recorded(self, read: Read) -> None:
        """The database did not take the record: it is written later, by `recover`."""
        with self._lock:
            self._unrecorded.append(read)

    def recover(self) -> int:
        """Record what dead processes, and the database's absence, left; returns how many.

        A failure leaves all as it is and is logged.
        """
        count = 0
        try:
            for reads in self.journal.abandoned():
                count += self._record(reads)
            with self._lock:
                mine, self._unrecorded = self._unrecorded, []
            try:
                count += self._record(mine)
            except VaultUnavailable:
                with self._lock:
                    self._unrecorded += mine
                raise
            for read in mine:
                self.journal.settle(read)
        except (VaultUnavailable, AuditUnavailable, ConfigError) as error:
            metrics.AUDIT_READ_FAILURES.inc()
            log.error("reads of memory wait in the journal for the audit log: %s", error)
        return count

    def forget(self, is_erased: object) -> None:
        """Persons were erased: their names leave the journal with its open entries."""
        self.journal.rotate()

    def close(self) -> None:
        self.journal.close()

    def _record(self, reads: Sequence[Read]) -> int:
        if not reads:
            return 0
        count = 0
        with self._database.write() as session:
            for read in reads:
                if _has_plan(session, read):
                    continue
                principal = Principal(
                    TenantId(read.tenant),
                    Role.READER,
                    read.key_id,
                    PersonId(read.person),
                    token_id=read.token,
                )
                detail: dict[str, Any] = {"person": read.person, "cubes": list(read.cubes)}
                detail |= {"recovered": True, "at_us": read.at_us}
                audit.record(session, principal, "memory.read", "prompt", detail, read.request_id)
                count += 1
        return count
