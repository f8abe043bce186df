"""Lookup of one cube by id or name, and what a principal may do with it."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from memos_vllm.cube.ids import SHARED, PersonId, TenantId, now_us
from memos_vllm.cube.model import State
from memos_vllm.errors import NotFound
from memos_vllm.governance import permit
from memos_vllm.governance.permit import Effect, Grant, Permission, Permissions, SubjectKind
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.vault import records
from memos_vllm.vault.bundle_tables import BundleCubeRow
from memos_vllm.vault.tables import CubeRow, GrantRow, GroupMemberRow


def find(session: Session, principal: Principal, ref: str, *, lock: bool = False) -> CubeRow:
    """By id, else by name: the person's own before the tenant's. Another person's has an id only.

    Raises:
        NotFound: absent or not readable by this principal; the two look the same. A bundle's cube whose entitlement
            has ended is there for admins alone.
    """
    query = select(CubeRow).where(records.visible_to(principal, Permission.READ))
    by_id = query.where(CubeRow.id == ref)
    by_name = query.where(
        CubeRow.name == ref, CubeRow.person.in_((principal.person, SHARED))
    ).order_by(CubeRow.person.desc())
    for statement in (by_id, by_name):
        row = session.scalars(statement.with_for_update() if lock else statement).first()
        if row is not None and not _has_ended(session, principal, row):
            return row
    raise NotFound(f"there is no cube {ref!r} here", param="cube")


def _has_ended(session: Session, principal: Principal, row: CubeRow) -> bool:
    if row.person != SHARED or principal.can(Role.ADMIN) or principal.is_sweep:
        return False
    is_expired = records.effective_state(row) is State.EXPIRED
    return is_expired and session.get(BundleCubeRow, row.id) is not None


def grant_of(row: GrantRow) -> Grant:
    return Grant(
        SubjectKind(row.kind),
        row.subject,
        Effect(row.effect),
        frozenset(each for each, bit in permit.BITS.items() if row.permissions & bit),
        row.expires_us,
        row.made_by,
    )


def grants_on(session: Session, cube: str) -> list[Grant]:
    rows = session.scalars(select(GrantRow).where(GrantRow.cube_id == cube))
    return [grant_of(row) for row in rows]


def groups_of(session: Session, principal: Principal) -> set[str]:
    """Ids of the groups of the principal's person."""
    if not principal.person:
        return set()
    query = select(GroupMemberRow.group_id).where(
        GroupMemberRow.tenant == principal.tenant, GroupMemberRow.person == principal.person
    )
    return set(session.scalars(query))


def held(session: Session, principal: Principal, row: CubeRow) -> Permissions:
    """What the principal may do with a cube."""
    return permit.permitted(
        principal,
        TenantId(row.tenant),
        PersonId(row.person),
        row.is_open,
        grants_on(session, row.id),
        groups_of(session, principal),
        now_us(),
    )


def check(session: Session, principal: Principal, row: CubeRow, wanted: Permission) -> None:
    """Raises Forbidden: the principal lacks a permission that changes the cube."""
    permit.check(principal, wanted, PersonId(row.person), held(session, principal, row))


def check_life(session: Session, principal: Principal, row: CubeRow) -> None:
    """Raises Forbidden: the principal may not delete the cube, or change its state or expiry.

    A shared cube that all of the tenant writes (`access.writers`) is theirs in this, too.
    """
    is_common = row.person == SHARED and row.access.get("writers") == "tenant"
    check(session, principal, row, Permission.WRITE if is_common else Permission.ADMINISTER)


def is_among(
    session: Session, principal: Principal, cube: str, permission: Permission = Permission.READ
) -> bool:
    """Whether the principal has a permission on a cube."""
    query = select(CubeRow.id).where(CubeRow.id == cube, records.visible_to(principal, permission))
    return session.scalar(query) is not None
