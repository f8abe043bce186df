"""Deletion of a cube, and orders to train adapters again that were deleted with one of their sources.

Both in one transaction: a kill after it loses no adapter, and a kill before it has deleted nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy.orm import Session

from memos_vllm.cube.ids import CubeId
from memos_vllm.cube.lifecycle import check_deletable
from memos_vllm.governance.principal import Principal
from memos_vllm.vault import audit, bundle_guard, derived, fence, items, lookup, records, traces
from memos_vllm.vault.derived import Deletion, Orphan
from memos_vllm.vault.tables import CubeRow
from memos_vllm.vault.transform_rows import DISTILL, add_in, forget_jobs_of


def delete_in(
    session: Session,
    principal: Principal,
    row: CubeRow,
    cascade: bool = False,
    remake: bool = False,
) -> Deletion:
    """`MemVault.delete` in a transaction of the caller."""
    deletion, gone = _delete(session, principal, row, cascade, remake)
    traces.forget(session, principal.tenant, gone)
    return deletion


def delete_all(session: Session, principal: Principal, rows: Iterable[CubeRow]) -> list[Deletion]:
    """`delete_in` of several cubes: the tenant's plans are read once for all, not once for each."""
    done = [_delete(session, principal, row) for row in rows]
    traces.forget(session, principal.tenant, {cube for _, gone in done for cube in gone})
    return [deletion for deletion, _ in done]


def _delete(
    session: Session,
    principal: Principal,
    row: CubeRow,
    cascade: bool = False,
    remake: bool = False,
) -> tuple[Deletion, set[str]]:
    """Delete a cube but for its traces; also the ids of all that is deleted."""
    deletion = Deletion(CubeId(row.id))
    made = derived.mark(session, row)
    deletion.stale = [child.id for child in made if lookup.is_among(session, principal, child.id)]
    children = made if cascade else []
    ids = [row.id, *(child.id for child in children)]
    deletion.gone = [derived.orphan(session, child, ids) for child in children]
    again = [derived.orphan(session, row, ids)] if remake else []
    for each in (*children, row):
        _drop(session, principal, each)
    deletion.jobs = order_again(session, principal, [*deletion.gone, *again])
    return deletion, set(ids)


def _drop(session: Session, principal: Principal, row: CubeRow) -> None:
    """Delete a cube with all versions, items and jobs.

    Raises:
        Forbidden, Conflict: it is not the principal's, or frozen.
    """
    lookup.check_life(session, principal, row)
    bundle_guard.check_free(session, principal, row)
    fence.check(session, principal, row.person)
    check_deletable(records.effective_state(row))
    items.drop_cube(session, row)
    forget_jobs_of(session, row.id)
    detail = {"person": row.person, "head": row.head_version, "versions": row.head_sequence}
    audit.record(session, principal, "cube.delete", row.id, detail)
    session.delete(row)


def order_again(session: Session, principal: Principal, orphans: Iterable[Orphan]) -> list[str]:
    """Queue a training on the sources that are left, for every adapter that a job had trained.

    Called behind the deletion, which forgets the jobs that read the deleted cubes. What the principal may
    not do, and a name that is taken meanwhile, end the job, with the reason in its report.

    Returns:
        Ids of the jobs.
    """
    jobs = []
    for orphan in orphans:
        if orphan.made_by is None or not orphan.sources:
            continue
        kind, request = orphan.made_by
        if kind != DISTILL:
            continue
        first, *further = orphan.sources
        again = {"cube": first, "also": further, "name": orphan.name, "into": None, "exam": []}
        jobs.append(add_in(session, principal, kind, orphan.sources, request | again))
    return jobs
