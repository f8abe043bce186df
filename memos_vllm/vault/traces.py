"""Traces of deleted cubes in rows of others: names in plans, replies of repeated requests."""

from __future__ import annotations

from collections.abc import Set

from sqlalchemy import select
from sqlalchemy.orm import Session

from memos_vllm.vault import plans
from memos_vllm.vault.tables import IdempotencyRow


def forget(session: Session, tenant: str, cubes: Set[str]) -> None:
    """Remove the names of deleted cubes from plans, and the keys of requests that created them."""
    for row in repeats(session, tenant, cubes):
        session.delete(row)
    plans.forget_cubes(session, tenant, cubes)


def repeats(session: Session, tenant: str, cubes: Set[str]) -> list[IdempotencyRow]:
    """Idempotency keys of requests that created one of these cubes."""
    query = select(IdempotencyRow).where(IdempotencyRow.tenant == tenant)
    return [row for row in session.scalars(query) if cubes & set(row.cube_ids)]
