"""Restores of a person's memory: who asked for which moment, and what became of it."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import select

from memos_vllm.cube.ids import PersonId, TenantId, new_id, now_us, to_datetime
from memos_vllm.errors import Forbidden, NotFound
from memos_vllm.governance.principal import (
    EVERY_PERSONA,
    Principal,
    Role,
    Scope,
    check_person,
)
from memos_vllm.vault import audit
from memos_vllm.vault.database import Database
from memos_vllm.vault.jobs import RESTORE, JobStore
from memos_vllm.vault.tables import RestoreRow


class RestoreState(StrEnum):
    QUEUED = "queued"
    DONE = "done"


@dataclasses.dataclass(frozen=True, slots=True)
class Restore:
    id: str
    owner: Principal
    """The person, with the rights on their own memory, in every persona."""
    as_of_us: int
    created_us: int
    state: RestoreState
    report: dict[str, Any]

    @property
    def as_of(self) -> datetime:
        return to_datetime(self.as_of_us)


class RestoreStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    @staticmethod
    def owner_of(caller: Principal, person: str) -> Principal:
        """The person, as the principal of a restore.

        Raises:
            Forbidden: neither an admin key nor the person's own token with `memory.write`.
        """
        person = check_person(person)
        if caller.token_id:
            if caller.person != person:
                raise Forbidden("a person token is for one person: it cannot name another one")
            caller.require_scope(Scope.WRITE)
            caller.require(Role.WRITER)
        else:
            caller.require(Role.ADMIN)
        owner = Principal(caller.tenant, Role.WRITER, caller.key_id, PersonId(person))
        return owner.in_persona(EVERY_PERSONA)

    def add(self, caller: Principal, person: str, as_of_us: int) -> Restore:
        """Order a restore and queue its job. Raises Forbidden."""
        owner = self.owner_of(caller, person)
        row = RestoreRow(
            id=new_id("restore"),
            tenant=owner.tenant,
            person=owner.person,
            key_id=caller.key_id,
            as_of_us=as_of_us,
            state=RestoreState.QUEUED,
            report={},
            created_us=now_us(),
        )
        with self._database.write() as session:
            session.add(row)
            JobStore.add_in(session, RESTORE, row.id)
            detail = {"person": person, "as_of_us": as_of_us}
            audit.record(session, caller, "memory.restore", row.id, detail)
        return _model(row)

    def get(self, caller: Principal, person: str, restore: str) -> Restore:
        """Raises Forbidden, NotFound."""
        owner = self.owner_of(caller, person)
        query = select(RestoreRow).where(
            RestoreRow.id == restore,
            RestoreRow.tenant == owner.tenant,
            RestoreRow.person == owner.person,
        )
        with self._database.read() as session:
            row = session.scalar(query)
        if row is None:
            raise NotFound(f"there is no restore {restore!r} of this person", param="restore")
        return _model(row)

    def find(self, restore: str) -> Restore | None:
        """For the job; None: it was deleted with its person."""
        with self._database.read() as session:
            row = session.get(RestoreRow, restore)
            return _model(row) if row is not None else None

    def done(self, restore: str, report: dict[str, Any]) -> None:
        with self._database.write() as session:
            row = session.get(RestoreRow, restore)
            if row is not None:
                row.state, row.report = RestoreState.DONE, report


def _model(row: RestoreRow) -> Restore:
    owner = Principal(TenantId(row.tenant), Role.WRITER, row.key_id, PersonId(row.person))
    return Restore(
        row.id,
        owner.in_persona(EVERY_PERSONA),
        row.as_of_us,
        row.created_us,
        RestoreState(row.state),
        dict(row.report),
    )
