"""The gate of a bundle's adapters: no prompt uses one before it has passed on this server.

    installed or changed  ─► a job `examine` in the same transaction
    the job ends          ─► its verdict, by the digest of the content; passed: in use with its bundle
    approved with trust   ─► the verdict `trusted`, without a job

Verdicts of versions before are kept, so that a rollback needs no second exam.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from memos_vllm.cube.bundle import BundleState
from memos_vllm.cube.ids import to_datetime
from memos_vllm.cube.model import Access, CubePatch, Kind, State
from memos_vllm.cube.moments import LATEST
from memos_vllm.governance.principal import Principal
from memos_vllm.vault import lookup, records
from memos_vllm.vault.bundle_tables import BundleCubeRow, BundleRow
from memos_vllm.vault.tables import CubeRow, TransformRow, TransformSourceRow
from memos_vllm.vault.transform_rows import ENDED, EXAMINE, add_in

PASSED, TRUSTED, FAILED = "passed", "trusted", "failed"
_KEPT = 8
"""Verdicts of one cube; the oldest goes."""


def is_through(member: BundleCubeRow, row: CubeRow) -> bool:
    """Whether a cube may be used: text may, an adapter once its content has passed."""
    outcome = member.gates.get(member.digest, {}).get("outcome")
    return row.kind != Kind.PARAMETRIC or outcome in (PASSED, TRUSTED)


def verdict(member: BundleCubeRow) -> Mapping[str, Any]:
    """Of the content that is installed; empty: none yet."""
    found: Mapping[str, Any] = member.gates.get(member.digest, {})
    return found


def note(member: BundleCubeRow, verdict: Mapping[str, Any]) -> None:
    """Keep a verdict on the content that is installed."""
    kept = {digest: each for digest, each in member.gates.items() if digest != member.digest}
    last = list(kept.items())[-(_KEPT - 1) :]
    member.gates = {**dict(last), member.digest: dict(verdict)}


def queue(
    session: Session, principal: Principal, member: BundleCubeRow, exam: list[Any], *, again: bool
) -> None:
    """Queue the exam of an adapter, unless there is a verdict on its content, or a job that will give it.

    Args:
        exam: questions of its publisher, as in the bundle.
        again: also where the exam of this content failed.
    """
    if lookup.find(session, principal, member.cube_id).kind != Kind.PARAMETRIC:
        return
    outcome = verdict(member).get("outcome")
    if outcome is not None and not (again and outcome == FAILED):
        return
    query = (
        select(TransformRow)
        .join(TransformSourceRow, TransformSourceRow.transform_id == TransformRow.id)
        .where(
            TransformSourceRow.cube_id == member.cube_id,
            TransformRow.kind == EXAMINE,
            TransformRow.state.not_in(ENDED),
        )
    )
    if all(job.request["digest"] != member.digest for job in session.scalars(query)):
        request = {"cube": member.cube_id, "digest": member.digest, "exam": exam}
        add_in(session, principal, EXAMINE, [member.cube_id], request)


def trust(session: Session, principal: Principal, member: BundleCubeRow) -> None:
    """Let an adapter through without a pass."""
    if not is_through(member, lookup.find(session, principal, member.cube_id)):
        note(member, {"outcome": TRUSTED, "reasons": verdict(member).get("reasons", [])})


def activations(
    session: Session, principal: Principal, member: BundleCubeRow, row: BundleRow
) -> list[CubePatch]:
    """Changes that let the readers of an approved bundle use a cube until its end, where it is through the gate."""
    cube = lookup.find(session, principal, member.cube_id)
    access = Access(readers=row.readers)
    ends = to_datetime(row.ends_us) if row.ends_us is not None else LATEST
    expires = ends if row.ends_us is not None or cube.expires_us is not None else None
    is_used = records.effective_state(cube) is State.ACTIVATED
    if is_through(member, cube):
        state = None if is_used else State.ACTIVATED
    else:
        state = State.ARCHIVED if is_used else None
    if State(cube.state) is State.EXPIRED:  # it comes back through the archive
        back = CubePatch(state=State.ARCHIVED, expires=expires)
        return [back, CubePatch(state=state, access=access)]
    if records.effective_state(cube) is State.EXPIRED:
        return [CubePatch(expires=expires), CubePatch(state=state, access=access)]
    return [CubePatch(state=state, access=access, expires=expires)]


def changed(
    session: Session, principal: Principal, member: BundleCubeRow, row: BundleRow
) -> CubePatch | None:
    """What a new version of an adapter changes of its state: out of use until it has passed, or in use again."""
    cube = lookup.find(session, principal, member.cube_id)
    state = records.effective_state(cube)
    if not is_through(member, cube):
        return CubePatch(state=State.ARCHIVED) if state is State.ACTIVATED else None
    is_aside = state in (State.ARCHIVED, State.GENERATED) and cube.kind == Kind.PARAMETRIC
    is_active = row.state == BundleState.ACTIVE
    return CubePatch(state=State.ACTIVATED) if is_aside and is_active else None
