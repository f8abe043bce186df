"""Jobs that make one kind of memory from another: queued, claimed by one process, ended once.

A job whose process is gone (it has not been seen for a while) is claimed by another, which goes on with
it.  It is its submitter's: nobody else of the tenant sees it but an admin.  Deleting a cube that it
reads deletes the job with all that it says.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, func, or_, select
from sqlalchemy.orm import Session

from memos_vllm.cube.ids import PersonId, TenantId, new_id, now_us, to_datetime
from memos_vllm.cube.model import Kind, State
from memos_vllm.errors import Conflict, NotFound
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.vault import audit
from memos_vllm.vault.database import Database
from memos_vllm.vault.tables import CubeRow, DerivedRow, ItemRow, TransformRow, TransformSourceRow

SEEN_SECONDS = 30.0
"""A running job that nobody has seen for so long is taken up by another process."""


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    REFUSED = "refused"
    """What was made did not pass; it is kept and does not serve."""
    CANCELLED = "cancelled"
    FAILED = "failed"


ENDED = frozenset({JobState.DONE, JobState.REFUSED, JobState.CANCELLED, JobState.FAILED})


class JobIsGone(Exception):
    """It was cancelled, or what it reads was deleted; whatever it was about to store is undone."""


@dataclasses.dataclass(frozen=True, slots=True)
class Transform:
    id: str
    principal: Principal
    """Whoever asked for it."""
    kind: str
    state: JobState
    sources: tuple[str, ...]
    request: dict[str, Any]
    progress: dict[str, Any]
    report: dict[str, Any] | None
    made: str | None
    """The cube that came of it."""
    created: datetime


@dataclasses.dataclass(frozen=True, slots=True)
class Promotable:
    """A cube of text that is worth being an adapter."""

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

    def add(
        self, principal: Principal, kind: str, sources: Sequence[str], request: dict[str, Any]
    ) -> Transform:
        row = TransformRow(
            id=new_id("job"),
            tenant=principal.tenant,
            person=principal.person,
            role=principal.role,
            key_id=principal.key_id,
            kind=kind,
            state=JobState.QUEUED,
            request=request,
            progress={},
            created_us=now_us(),
            seen_us=0,
        )
        with self._database.write() as session:
            session.add(row)
            session.flush()
            for source in sources:
                session.add(TransformSourceRow(transform_id=row.id, cube_id=source))
            audit.record(
                session,
                principal.tenant,
                principal.author,
                f"transform.{kind}",
                row.id,
                {"sources": list(sources)},
            )
        return self.get(principal, row.id)

    def count_open(self, principal: Principal) -> int:
        """Jobs of the tenant that wait or run."""
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
        """The newest first."""
        query = select(TransformRow).where(_visible(principal)).order_by(TransformRow.id.desc())
        with self._database.read() as session:
            return [_model(session, row) for row in session.scalars(query.limit(limit))]

    def cancel(self, principal: Principal, job: str) -> Transform:
        """Whoever runs it ends soon. Raises NotFound, Conflict: it has ended."""
        principal.require(Role.WRITER)
        with self._database.write() as session:
            row = self._find(session, principal, job)
            if row.state in ENDED:
                raise Conflict(f"the job has ended: it is {row.state}")
            row.state = JobState.CANCELLED
            audit.record(
                session, principal.tenant, principal.author, "transform.cancel", row.id, {}
            )
        return self.get(principal, job)

    # -- for whoever runs them ------------------------------------------------------------------------

    def claim(self, job: str | None = None) -> Transform | None:
        """The oldest that waits, or that a process left behind. Args: job: only this one."""
        stale = now_us() - round(SEEN_SECONDS * 1_000_000)
        query = (
            select(TransformRow)
            .where(
                or_(
                    TransformRow.state == JobState.QUEUED,
                    and_(TransformRow.state == JobState.RUNNING, TransformRow.seen_us < stale),
                )
            )
            .order_by(TransformRow.id)
            .limit(1)
        )
        if job is not None:
            query = query.where(TransformRow.id == job)
        with self._database.write() as session:
            row = session.scalar(query.with_for_update(skip_locked=True))
            if row is None:
                return None
            row.state, row.seen_us = JobState.RUNNING, now_us()
            return _model(session, row)

    def seen(self, job: str, progress: dict[str, Any]) -> bool:
        """It is still worked on. False: it was cancelled, or deleted with what it reads."""
        with self._database.write() as session:
            row = session.get(TransformRow, job)
            if row is None or row.state != JobState.RUNNING:
                return False
            row.progress, row.seen_us = progress, now_us()
            return True

    def release(self, job: str) -> None:
        """Not worked on any more, and not ended: the next process goes on with it."""
        with self._database.write() as session:
            row = session.get(TransformRow, job)
            if row is not None and row.state == JobState.RUNNING:
                row.state = JobState.QUEUED

    def end(self, job: str, state: JobState, report: dict[str, Any], made: str | None) -> bool:
        """False: it was cancelled or deleted meanwhile, and nothing was noted."""
        with self._database.write() as session:
            row = session.get(TransformRow, job)
            if row is None or row.state != JobState.RUNNING:
                return False
            row.state, row.report, row.made = state, report, made
            return True

    def still_running(self, job: str) -> Callable[[Session], None]:
        """For the transaction that stores what came of it; raises JobIsGone."""

        def check(session: Session) -> None:
            row = session.get(TransformRow, job, with_for_update=True)
            if row is None or row.state != JobState.RUNNING:
                raise JobIsGone(job)

        return check

    def forget_ended(self, before_us: int) -> int:
        """Remove the rows of jobs that were asked for before and have ended; returns how many.

        Those whose cube is still there stay: they say how it can be made again.
        """
        made = select(CubeRow.id).where(CubeRow.id == TransformRow.made)
        with self._database.write() as session:
            gone = session.execute(
                delete(TransformRow).where(
                    TransformRow.state.in_(ENDED),
                    TransformRow.created_us < before_us,
                    ~made.exists(),
                )
            )
            return int(gone.rowcount)  # type: ignore[attr-defined]  # CursorResult, for a DELETE

    def ids(self) -> set[str]:
        """Of all jobs that have not ended: whose folders are still wanted."""
        query = select(TransformRow.id).where(TransformRow.state.not_in(ENDED))
        with self._database.read() as session:
            return set(session.scalars(query))

    def promotable(
        self, before_us: int, least_reads: int, least_characters: int, tenant: str | None = None
    ) -> list[Promotable]:
        """Cubes of text that have not changed since, are read so often and are so large, and that
        nothing was made of and no job has read; the most read first."""
        characters = func.sum(func.length(ItemRow.text)).label("characters")
        query = (
            select(CubeRow, characters)
            .join(ItemRow, ItemRow.cube_id == CubeRow.id)
            .where(
                CubeRow.kind == Kind.EXPLICIT,
                CubeRow.state == State.ACTIVATED,
                CubeRow.updated_us < before_us,
                CubeRow.reads >= least_reads,
                CubeRow.id.not_in(select(DerivedRow.source_id)),
                CubeRow.id.not_in(select(TransformSourceRow.cube_id)),
            )
            .group_by(CubeRow.id)
            .having(characters >= least_characters)
            .order_by(CubeRow.reads.desc(), CubeRow.id)
        )
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


def forget_jobs_of(session: Session, cube: str) -> None:
    """Jobs that read a cube go with it, with whatever they say of it."""
    reading = select(TransformSourceRow.transform_id).where(TransformSourceRow.cube_id == cube)
    session.execute(delete(TransformRow).where(TransformRow.id.in_(reading)))


def _visible(principal: Principal) -> ColumnElement[bool]:
    mine = TransformRow.tenant == principal.tenant
    return (
        mine if principal.can(Role.ADMIN) else and_(mine, TransformRow.person == principal.person)
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
