"""Jobs of one tenant that were set aside, for its admins: listed, retried, discarded.

Two tables have them: `jobs` keeps a job that failed in its last attempt, and a failed transform is a record
without a job.  A job carries the id of its subject, whose row says whose it is; a job without such a row (its
subject was deleted) and a sweep, which is of all tenants, are the operator's: `memos jobs failed`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from memos_vllm.cube.ids import TenantId, to_datetime
from memos_vllm.errors import Conflict, NotFound
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.vault import audit
from memos_vllm.vault.database import Database
from memos_vllm.vault.erasure_tables import ErasureRow
from memos_vllm.vault.jobs import (
    ERASE,
    MAX_ATTEMPTS,
    PURGE,
    READ,
    REMEMBER,
    RESTORE,
    TRANSFORM,
    JobRowState,
    JobStore,
)
from memos_vllm.vault.tables import CubeRow, JobRow, PendingTurnRow, RestoreRow, TransformRow
from memos_vllm.vault.transform_rows import JobState

_PAGE = 500
_DELETING = (PURGE, ERASE)
"""Jobs that end what a person ordered to be deleted."""
_SUBJECTS: dict[str, Any] = {
    REMEMBER: PendingTurnRow,
    READ: CubeRow,
    PURGE: CubeRow,
    RESTORE: RestoreRow,
    ERASE: ErasureRow,
}
"""Table of each job's subject; all have `id`, `tenant` and `person`."""


@dataclasses.dataclass(frozen=True, slots=True)
class FailedJob:
    """A job that was set aside. It has no text of memory."""

    id: str
    kind: str
    """Name of the job, or kind of the transform: distill, decode, recover."""
    person: str | None
    """None: the tenant's shared memory, or a person whose name an erasure keeps out."""
    created: datetime
    attempts: int
    error: str
    """Class of the last attempt's error, or outcome of the transform."""


class SetAside:
    def __init__(self, database: Database) -> None:
        self._database = database

    def page(self, principal: Principal, limit: int = 50) -> list[FailedJob]:
        """The tenant's jobs that were set aside, newest first. Raises Forbidden."""
        principal.require(Role.ADMIN)
        transforms = (
            select(TransformRow)
            .where(TransformRow.tenant == principal.tenant, TransformRow.state == JobState.FAILED)
            .order_by(TransformRow.created_us.desc(), TransformRow.id.desc())
            .limit(limit)
        )
        with self._database.read() as session:
            found = [_of_transform(row) for row in session.scalars(transforms)]
            for number, job in enumerate(_jobs_of(session, principal.tenant), 1):
                found.append(job)
                if number == limit:
                    break
        return sorted(found, key=lambda job: (job.created, job.id), reverse=True)[:limit]

    def retry(self, principal: Principal, job: str) -> FailedJob:
        """Queue a job again, with all its attempts.

        Raises:
            Forbidden
            NotFound: unknown, not set aside, or of another tenant.
        """
        principal.require(Role.ADMIN)
        with self._database.write() as session:
            row, found = _find(session, principal.tenant, job)
            if isinstance(row, TransformRow):
                row.state, row.report, row.progress = JobState.QUEUED, None, {}
                JobStore.add_in(session, TRANSFORM, row.id)
            else:
                row.state, row.attempts, row.not_before_us = JobRowState.QUEUED, 0, 0
            audit.record(session, principal, "job.retry", job, _detail(found))
        return found

    def discard(self, principal: Principal, job: str) -> FailedJob:
        """Delete a job for good, with the turn that it would have made memory.

        Raises:
            Forbidden
            NotFound: as for `retry`.
            Conflict: the job deletes what was forgotten or erased; it can be retried only.
        """
        principal.require(Role.ADMIN)
        with self._database.write() as session:
            row, found = _find(session, principal.tenant, job)
            if found.kind in _DELETING:
                raise Conflict(
                    f"the job {job!r} deletes what a person ordered to be deleted: retry it"
                )
            if found.kind in (REMEMBER, RESTORE) and isinstance(row, JobRow):
                table = _SUBJECTS[found.kind]
                session.execute(delete(table).where(table.id == row.subject))
            session.delete(row)
            audit.record(session, principal, "job.discard", job, _detail(found))
        return found

    def tenant_of(self, job: str) -> TenantId | None:
        """For operators: the tenant of a job that was set aside; None: unknown, or of no tenant."""
        with self._database.read() as session:
            transform = session.get(TransformRow, job)
            if transform is not None:
                return TenantId(transform.tenant)
            row = session.get(JobRow, job)
            owner = _owners(session, [row]).get(row.id) if row is not None else None
            return TenantId(owner[0]) if owner is not None else None


def _find(session: Session, tenant: str, job: str) -> tuple[TransformRow | JobRow, FailedJob]:
    """Raises NotFound."""
    transform = session.get(TransformRow, job, with_for_update=True)
    if transform is not None:
        if (transform.tenant, transform.state) == (tenant, JobState.FAILED):
            return transform, _of_transform(transform)
    else:
        row = session.get(JobRow, job, with_for_update=True)
        if row is not None and row.state == JobRowState.FAILED:
            owner = _owners(session, [row]).get(row.id)
            if owner is not None and owner[0] == tenant:
                return row, _of_job(row, owner[1])
    raise NotFound(f"there is no job {job!r} here that was set aside", param="job")


def _jobs_of(session: Session, tenant: str) -> Iterator[FailedJob]:
    """The tenant's rows of `jobs` that were set aside, newest first."""
    query = (
        select(JobRow)
        .where(JobRow.state == JobRowState.FAILED)
        .order_by(JobRow.created_us.desc(), JobRow.id.desc())
    )
    offset = 0
    while rows := list(session.scalars(query.offset(offset).limit(_PAGE))):
        owners = _owners(session, rows)
        for row in rows:
            owner = owners.get(row.id)
            if owner is not None and owner[0] == tenant:
                yield _of_job(row, owner[1])
        offset += _PAGE


def _owners(session: Session, rows: Sequence[JobRow]) -> dict[str, tuple[str, str]]:
    """(tenant, person) of jobs, by their ids; a job whose subject has no row is missing."""
    made: dict[str, tuple[str, str]] = {}
    for name, table in _SUBJECTS.items():
        subjects = {row.id: _id_of(row) for row in rows if row.name == name}
        if not subjects:
            continue
        query = select(table.id, table.tenant, table.person).where(
            table.id.in_(set(subjects.values()))
        )
        known = {each: (tenant, person) for each, tenant, person in session.execute(query)}
        made |= {job: known[each] for job, each in subjects.items() if each in known}
    return made


def _id_of(row: JobRow) -> str:
    """Id of the row that says whose a job is."""
    parts = row.subject.split(":")
    if row.name == PURGE:  # `forgotten.Forgotten.subject`
        return parts[1] if len(parts) > 1 else ""
    return parts[0]


def _detail(job: FailedJob) -> dict[str, Any]:
    return {"kind": job.kind, **({"person": job.person} if job.person is not None else {})}


def _of_transform(row: TransformRow) -> FailedJob:
    report = row.report or {}
    return FailedJob(
        id=row.id,
        kind=row.kind,
        person=row.person or None,
        created=to_datetime(row.created_us),
        attempts=int(report.get("attempts", 1)),
        error=str(report.get("error") or report.get("outcome", "failed")),
    )


def _of_job(row: JobRow, person: str) -> FailedJob:
    return FailedJob(
        id=row.id,
        kind=row.name,
        person=person or None if row.name != ERASE else None,
        created=to_datetime(row.created_us),
        attempts=min(row.attempts, MAX_ATTEMPTS),
        error=row.error,
    )
