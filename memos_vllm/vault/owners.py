"""Owners whose memory a principal's prompts may hold, and texts that readers may not read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from sqlalchemy import not_, select
from sqlalchemy.orm import Session

from memos_vllm.cube.ids import SHARED, PersonId, TenantId
from memos_vllm.cube.model import Kind
from memos_vllm.governance.permit import Permission, is_own
from memos_vllm.governance.principal import Principal, Role, persona_of
from memos_vllm.vault import items, records
from memos_vllm.vault.items import Owner, PartKey
from memos_vllm.vault.tables import CubeRow, ItemRow, OwnerRow


@dataclasses.dataclass(frozen=True, slots=True)
class OwnerState:
    owner: Owner
    revision: int
    items: int
    only: tuple[PartKey, ...] | None = None
    """The cubes of another owner, or of the tenant's that are not open, which grants give to the principal;
    None: all of the person's own, or the open ones of the tenant's."""


def states(
    session: Session, principal: Principal, permissions: Sequence[Permission]
) -> list[OwnerState]:
    """As `VaultViews.owners`."""
    people = {principal.person, SHARED}
    rows = session.scalars(
        select(OwnerRow).where(OwnerRow.tenant == principal.tenant, OwnerRow.person.in_(people))
    )
    own = [
        OwnerState(Owner(TenantId(row.tenant), PersonId(row.person)), row.revision, row.items)
        for row in rows
        if row.items > 0
    ]
    return own + _granted(session, principal, permissions)


def _granted(
    session: Session, principal: Principal, permissions: Sequence[Permission]
) -> list[OwnerState]:
    """Searchable cubes that grants give to the principal, by owner."""
    rows = session.scalars(
        select(CubeRow)
        .where(
            CubeRow.tenant == principal.tenant,
            CubeRow.id.in_(records.granted_to(principal, *permissions)),
            CubeRow.kind == Kind.EXPLICIT,
            CubeRow.state.in_(items.SEARCHED),
            not_(CubeRow.is_open),
        )
        .order_by(CubeRow.person, CubeRow.created_us, CubeRow.id)
    )
    found: dict[str, list[PartKey]] = {}
    for row in rows:
        if records.has_place(principal, row) and not is_own(principal, row.tenant, row.person):
            key = PartKey(row.id, row.head_version, persona_of(row.tags))
            found.setdefault(row.person, []).append(key)
    return [
        OwnerState(Owner(principal.tenant, PersonId(person)), 0, 0, tuple(keys))
        for person, keys in found.items()
    ]


def hidden_texts(session: Session, tenant: str, readers: Sequence[str] | None) -> Iterator[str]:
    """As `VaultViews.hidden_texts`."""
    query = (
        select(ItemRow.text, CubeRow.id)
        .join(CubeRow, CubeRow.id == ItemRow.cube_id)
        .where(CubeRow.tenant == tenant, not_(CubeRow.is_open))
    )
    seen = _read_by_all(session, tenant, readers) if readers is not None else set()
    for text, cube in session.execute(query.execution_options(yield_per=1000)):
        if cube not in seen:
            yield text


def _read_by_all(session: Session, tenant: str, readers: Sequence[str]) -> set[str]:
    """Ids of the cubes that each of these persons may read."""
    seen: set[str] | None = None
    for person in readers:
        reader = Principal(TenantId(tenant), Role.WRITER, "", PersonId(person))
        ids = set(session.scalars(select(CubeRow.id).where(records.all_visible_to(reader))))
        seen = ids if seen is None else seen & ids
    return seen or set()
