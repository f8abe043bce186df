"""Rows of transforms, written and deleted as part of a caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from memos_vllm.cube.ids import new_id, now_us
from memos_vllm.governance.principal import Principal
from memos_vllm.vault import audit
from memos_vllm.vault.jobs import TRANSFORM, JobStore
from memos_vllm.vault.tables import TransformRow, TransformSourceRow

DISTILL, DECODE, RECOVER, COMPACT, EXAMINE = "distill", "decode", "recover", "compact", "examine"
"""Kinds of transforms."""


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    REFUSED = "refused"
    """The product did not pass its gate; it is stored and not used."""
    CANCELLED = "cancelled"
    FAILED = "failed"


ENDED = frozenset({JobState.DONE, JobState.REFUSED, JobState.CANCELLED, JobState.FAILED})


def add_in(
    session: Session,
    principal: Principal,
    kind: str,
    sources: Sequence[str],
    request: dict[str, Any],
) -> str:
    """Queue a transform as part of the caller's transaction; returns its id."""
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
    )
    session.add(row)
    session.flush()
    for source in sources:
        session.add(TransformSourceRow(transform_id=row.id, cube_id=source))
    JobStore.add_in(session, TRANSFORM, row.id)
    audit.record(session, principal, f"transform.{kind}", row.id, {"sources": list(sources)})
    return row.id


def forget_jobs_of(session: Session, cube: str) -> None:
    """Delete the transforms that read a cube, with their progress, reports and queued jobs."""
    reading = select(TransformSourceRow.transform_id).where(TransformSourceRow.cube_id == cube)
    for job in session.scalars(reading).all():
        JobStore.drop_in(session, TRANSFORM, job)
    session.execute(delete(TransformRow).where(TransformRow.id.in_(reading)))
