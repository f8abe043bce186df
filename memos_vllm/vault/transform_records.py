"""Transforms: requests to make one kind of memory from another, with their progress and report.

The queue (`vault.jobs`) says which process runs a transform; its record here says how far it is and
what came of it.  Both change in one transaction.  Only the submitter and the tenant's admins see a
record.  Deleting a cube that a transform reads deletes the record and its job.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, func, select
from sqlalchemy.orm import Session

from memos_vllm.cube.ids import PersonId, TenantId, to_datetime
from memos_vllm.cube.model import Kind, State
from memos_vllm.errors import Conflict, NotFound
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.vault import audit
from memos_vllm.vault.database import Database
from memos_vllm.vault.jobs import (
    MAX_ATTEMPTS,
    TRANSFORM,
    Job,
    JobStore,
    Lane,
    Leases,
    new_holder,
)
from memos_vllm.vault.tables import CubeRow, DerivedRow, ItemRow, TransformRow, TransformSourceRow
from memos_vllm.vault.transform_rows import COMPACT, DISTILL, ENDED, JobState, add_in


class JobIsGone(Exception):
    """The job was cancelled, or a cube that it reads was deleted; the transaction is rolled back."""


class LeaseLost(Exception):
    """Another process has taken the job after this one's lease had ended."""


@dataclasses.dataclass(frozen=True, slots=True)
class Transform:
    id: str
    principal: Principal
    """The submitter."""
    kind: str
    state: JobState
    sources: tuple[str, ...]
    request: dict[str, Any]
    progress: dict[str, Any]
    report: dict[str, Any] | None
    made: str | None
    """Id of the product's cube."""
    created: datetime


@dataclasses.dataclass(frozen=True, slots=True)
class Promotable:
    """A cube of text that the promotion rule selects for an adapter."""

    id: str
    tenant: TenantId
    person: PersonId
    name: str | None
    reads: int
    characters: int
    updated: datetime


class Transforms:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._jobs = JobStore(database)
        self._holder = new_holder()
        self._claimed: dict[str, Job] = {}
        """Claims of this process by transform."""

    def add(
        self, principal: Principal, kind: str, sources: Sequence[str], request: dict[str, Any]
    ) -> Transform:
        with self._database.write() as session:
            job = add_in(session, principal, kind, sources, request)
        return self.get(principal, job)

    def count_open(self, principal: Principal) -> int:
        """Number of the tenant's jobs that wait or run."""
        query = select(func.count()).where(
            TransformRow.tenant == principal.tenant, TransformRow.state.not_in(ENDED)
        )
        with self._database.read() as session:
            return session.scalar(query) or 0

    def get(self, principal: Principal, job: str) -> Transform:
        """Raises NotFound."""
        with self._database.read() as session:
            return _model(session, self._find(session, principal, job))

    def page(self, principal: Principal, limit: int = 50) -> list[Transform]:
        """Jobs that the principal may see, newest first."""
        query = select(TransformRow).where(_visible(principal)).order_by(TransformRow.id.desc())
        with self._database.read() as session:
            return [_model(session, row) for row in session.scalars(query.limit(limit))]

    def cancel(self, principal: Principal, job: str) -> Transform:
        """End a job; its worker notices and stops.

        Raises:
            NotFound
            Conflict: it has ended already.
        """
        principal.require(Role.WRITER)
        with self._database.write() as session:
            row = self._find(session, principal, job)
            JobStore.drop_in(session, TRANSFORM, row.id)
            session.refresh(row, with_for_update=True)
            if row.state in ENDED:
                raise Conflict(f"the job has ended: it is {row.state}")
            row.state = JobState.CANCELLED
            audit.record(session, principal, "transform.cancel", row.id, {})
        return self.get(principal, job)

    # -- for workers ------------------------------------------------------------------------------

    def claim(self, job: str | None = None) -> Transform | None:
        """Lease the oldest job that is due, or one that a dead process left.

        Args:
            job: claim only this one, and do not wait for its pause after an error.
        """
        if job is None and not self._jobs.has_due(Lane.TRANSFORM):
            return None
        with self._database.write() as session:
            while claimed := JobStore.claim_in(session, Lane.TRANSFORM, self._holder, job):
                row = session.get(TransformRow, claimed.subject, with_for_update=True)
                if row is None or row.state in ENDED:
                    JobStore.drop_in(session, TRANSFORM, claimed.subject)
                elif claimed.exhausted:
                    _set_aside(session, claimed)
                else:
                    row.state = JobState.RUNNING
                    self._claimed[row.id] = claimed
                    return _model(session, row)
        return None

    @contextmanager
    def leased(self, job: str) -> Iterator[None]:
        """The lease of a claimed job is extended inside the block."""
        claimed = self._claimed.get(job)
        if claimed is None:
            raise LeaseLost(job)
        leases = Leases(self._jobs)
        try:
            with leases.held(claimed):
                yield
        finally:
            leases.stop()

    def seen(self, job: str, progress: dict[str, Any]) -> bool:
        """Record the progress of a running job and extend its lease.

        Returns:
            False: the job was cancelled, or deleted with a cube that it reads.
        Raises:
            LeaseLost
        """
        try:
            with self._database.write() as session:
                self._check_running(session, job).progress = progress
        except JobIsGone:
            return False
        return True

    def release(self, job: str, after_seconds: float = 0.0) -> None:
        """Queue an interrupted job for the next worker, without counting this attempt."""
        claimed = self._claimed.pop(job, None)
        with self._database.write() as session:
            if claimed is not None and JobStore.release_in(session, claimed, after_seconds):
                _requeue(session, job)

    def retry(self, job: str, error: str) -> None:
        """Queue a job again after a pause, or end it as failed after its last attempt."""
        claimed = self._claimed.pop(job, None)
        if claimed is None:
            return
        with self._database.write() as session:
            if claimed.attempts >= MAX_ATTEMPTS:
                _set_aside(session, dataclasses.replace(claimed, error=error))
            elif JobStore.retry_in(session, claimed, error):
                _requeue(session, job)

    def end(self, job: str, state: JobState, report: dict[str, Any], made: str | None) -> bool:
        """Record the outcome of a running job.

        Returns:
            False: the job was cancelled, deleted or taken by another process; nothing was recorded.
        """
        claimed = self._claimed.pop(job, None)
        with self._database.write() as session:
            if claimed is None or not JobStore.extend_in(session, claimed):
                return False
            row = session.get(TransformRow, job, with_for_update=True)
            if row is None or row.state != JobState.RUNNING:
                return False
            JobStore.drop_in(session, TRANSFORM, job)
            row.state, row.report, row.made = state, report, made
            return True

    def still_running(self, job: str) -> Callable[[Session], None]:
        """Check of the transaction that stores the product.

        Raises:
            JobIsGone, LeaseLost
        """

        def check(session: Session) -> None:
            self._check_running(session, job)

        return check

    def _check_running(self, session: Session, job: str) -> TransformRow:
        """Extend the lease of a running job. Raises JobIsGone, LeaseLost."""
        claimed = self._claimed.get(job)
        held = claimed is not None and JobStore.extend_in(session, claimed)
        row = session.get(TransformRow, job, with_for_update=True)
        if row is None or row.state != JobState.RUNNING:
            raise JobIsGone(job)
        if not held:
            raise LeaseLost(job)
        return row

    def forget_ended(self, before_us: int) -> int:
        """Delete records of ended jobs that were submitted before a time; returns how many.

        A record whose product exists stays: it says how to make the product again.
        """
        made = select(CubeRow.id).where(CubeRow.id == TransformRow.made)
        with self._database.write() as session:
            deleted = session.execute(
                delete(TransformRow).where(
                    TransformRow.state.in_(ENDED),
                    TransformRow.created_us < before_us,
                    ~made.exists(),
                )
            )
            return int(deleted.rowcount)  # type: ignore[attr-defined]  # CursorResult, for a DELETE

    def ids(self) -> set[str]:
        """Ids of all jobs that have not ended: their folders are in use."""
        query = select(TransformRow.id).where(TransformRow.state.not_in(ENDED))
        with self._database.read() as session:
            return set(session.scalars(query))

    def promotable(
        self,
        before_us: int,
        least_reads: int,
        least_characters: int,
        kind: str = DISTILL,
        tenant: str | None = None,
    ) -> list[Promotable]:
        """Cubes of text that are unchanged since a time, large and often read, most read first.

        Left out are those that a job of the kind has read; for compacts, since the cube's last change.
        """
        read = (
            select(TransformSourceRow.cube_id)
            .join(TransformRow, TransformRow.id == TransformSourceRow.transform_id)
            .where(TransformSourceRow.cube_id == CubeRow.id, TransformRow.kind == kind)
        )
        if kind == COMPACT:
            read = read.where(TransformRow.created_us >= CubeRow.updated_us)
        characters = func.sum(func.length(ItemRow.text)).label("characters")
        query = (
            select(CubeRow, characters)
            .join(ItemRow, ItemRow.cube_id == CubeRow.id)
            .where(
                CubeRow.kind == Kind.EXPLICIT,
                CubeRow.state == State.ACTIVATED,
                CubeRow.updated_us < before_us,
                CubeRow.reads >= least_reads,
                ~read.exists(),
            )
            .group_by(CubeRow.id)
            .having(characters >= least_characters)
            .order_by(CubeRow.reads.desc(), CubeRow.id)
        )
        if kind == DISTILL:
            query = query.where(CubeRow.id.not_in(select(DerivedRow.source_id)))
        if tenant is not None:
            query = query.where(CubeRow.tenant == tenant)
        with self._database.read() as session:
            return [
                Promotable(
                    row.id,
                    TenantId(row.tenant),
                    PersonId(row.person),
                    row.name,
                    row.reads,
                    int(size),
                    to_datetime(row.updated_us),
                )
                for row, size in session.execute(query)
                if row.expires_us is None
            ]

    @staticmethod
    def _find(session: Session, principal: Principal, job: str) -> TransformRow:
        row = session.scalar(
            select(TransformRow).where(_visible(principal), TransformRow.id == job)
        )
        if row is None:
            raise NotFound(f"there is no job {job!r} here", param="job")
        return row


def _visible(principal: Principal) -> ColumnElement[bool]:
    of_tenant = TransformRow.tenant == principal.tenant
    if principal.can(Role.ADMIN):
        return of_tenant
    return and_(of_tenant, TransformRow.person == principal.person)


def _requeue(session: Session, transform: str) -> None:
    row = session.get(TransformRow, transform, with_for_update=True)
    if row is not None and row.state == JobState.RUNNING:
        row.state = JobState.QUEUED


def _set_aside(session: Session, job: Job) -> None:
    """End a transform whose last attempt failed; its record keeps the reason."""
    JobStore.fail_in(session, job)
    JobStore.drop_in(session, TRANSFORM, job.subject)
    row = session.get(TransformRow, job.subject, with_for_update=True)
    if row is not None and row.state not in ENDED:
        reason = f"{MAX_ATTEMPTS} attempts failed, the last one with: {job.error}"
        report = {"outcome": "failed", "reasons": [reason]}
        row.state, row.report = (
            JobState.FAILED,
            report | {"error": job.error, "attempts": MAX_ATTEMPTS},
        )


def _model(session: Session, row: TransformRow) -> Transform:
    sources = session.scalars(
        select(TransformSourceRow.cube_id)
        .where(TransformSourceRow.transform_id == row.id)
        .order_by(TransformSourceRow.cube_id)
    )
    return Transform(
        id=row.id,
        principal=Principal(TenantId(row.tenant), Role(row.role), row.key_id, PersonId(row.person)),
        kind=row.kind,
        state=JobState(row.state),
        sources=tuple(sources),
        request=dict(row.request),
        progress=dict(row.progress),
        report=dict(row.report) if row.report is not None else None,
        made=row.made,
        created=to_datetime(row.created_us),
    )
