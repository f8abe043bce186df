"""Apply a patch to a cube's header and items; refuse illegal changes."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy.orm import Session

from memos_vllm.cube.ids import SHARED, PersonId, to_us
from memos_vllm.cube.lifecycle import check_hold, check_transition, check_writable
from memos_vllm.cube.model import Access, CubePatch, Kind, NewMeta, State
from memos_vllm.errors import BadRequest, Conflict, Forbidden, Unprocessable
from memos_vllm.governance.actors import actor_of
from memos_vllm.governance.permit import Permission
from memos_vllm.governance.permit import check_create as create_permitted
from memos_vllm.governance.principal import Principal, Role, check_person
from memos_vllm.vault import audit, fence, grants, lookup, records
from memos_vllm.vault.contents import Content, appended, of_payload
from memos_vllm.vault.tables import CubeRow

_CONSOLIDATED = frozenset({"profile", "facts"})
"""Tags of a person's standing cubes: their items end one by one."""


def apply(
    row: CubeRow, patch: CubePatch, current: Callable[[], Content], most_items: int
) -> tuple[str, Content | None]:
    """Patch the header; returns the action and the new content (None: unchanged)."""
    if patch.payload is not None and patch.append is not None:
        raise BadRequest(
            "`payload` replaces the items that `append` would add to: give one of them",
            param="append",
        )
    state = records.effective_state(row)
    if patch.state is not None:
        row.state = patch.state
    if patch.payload is not None or patch.append is not None:
        check_writable(State(row.state) if patch.state is not None else state)
    if patch.name is not None:
        row.name = patch.name
    if patch.placement is not None:
        row.placement = patch.placement
    if patch.priority is not None:
        row.priority = patch.priority
    if patch.tags is not None:
        row.tags = list(patch.tags)
    if patch.expires is not None:
        row.expires_us = to_us(patch.expires)
    if patch.append is not None:
        return "append", appended(current(), patch.append)
    if patch.payload is not None:
        content = of_payload(patch.payload, most_items)
        if content.kind != row.kind:
            raise Unprocessable(
                f"a cube keeps its kind: this one is {row.kind}, the payload {content.kind}",
                param="payload",
            )
        return "update", content
    return "update", None


def check(session: Session, principal: Principal, row: CubeRow, patch: CubePatch) -> None:
    """Check that the principal may make this change, by the grants as stored; record a hold.

    Raises:
        Forbidden, Unprocessable
    """
    check_access(session, principal, row, patch)
    if patch.state is not None or patch.expires is not None:
        lookup.check_life(session, principal, row)
    if patch.payload is not None or patch.append is not None:
        check_kind(session, row.tenant, row.kind)
    old = records.effective_state(row)
    new = patch.state or old
    check_transition(old, new, actor_of(principal, PersonId(row.person)))
    check_hold(old, patch)
    if old is not new and State.FROZEN in (old, new):
        action = "cube.freeze" if new is State.FROZEN else "cube.release"
        detail = {"person": row.person, "from": old, "to": new, "reason": patch.reason}
        audit.record(session, principal, action, row.id, detail)


def set_access(session: Session, principal: Principal, row: CubeRow, patch: CubePatch) -> None:
    if patch.access is not None and _changes_access(row, patch):
        grants.set_access(session, principal, row, patch.access)


def _changes_access(row: CubeRow, patch: CubePatch) -> bool:
    return patch.access is not None and patch.access != Access.model_validate(row.access)


def check_access(session: Session, principal: Principal, row: CubeRow, patch: CubePatch) -> None:
    """Check that the principal may set the patch's access list. Raises Forbidden."""
    if not _changes_access(row, patch):
        return
    lookup.check(session, principal, row, Permission.ADMINISTER)
    share = records.policy_in(session, row.tenant).share
    if row.person == SHARED and principal.role.value not in share:
        raise Forbidden("the tenant's policy (`share`) lets this role share no memory")


def check_create(session: Session, principal: Principal, person: PersonId, kind: Kind) -> None:
    """Check that the principal may create a cube of this owner and kind. Raises Forbidden."""
    check_kind(session, principal.tenant, kind)
    share = records.policy_in(session, principal.tenant).share
    if person == SHARED and not principal.token_id and principal.role.value in share:
        principal.require(Role.WRITER)
    else:
        create_permitted(principal, person)
        if person == SHARED:
            raise Forbidden("the tenant's policy (`share`) lets this role share no memory")
    fence.check(session, principal, person)


def check_kind(session: Session, tenant: str, kind: str) -> None:
    """Raise Forbidden: the tenant's policy does not allow this kind of memory."""
    name = records.KIND_NAMES[Kind(kind)]
    if not records.policy_in(session, tenant).allows(name):
        raise Forbidden(f"the tenant's policy (`kinds`) allows no {name} memory", param="payload")


def check_open(session: Session, row: CubeRow) -> None:
    """Check that a cube may get a new payload. Raises Unprocessable, Forbidden."""
    check_writable(records.effective_state(row))
    check_kind(session, row.tenant, row.kind)


def owner_of_new(principal: Principal, meta: NewMeta) -> PersonId:
    if meta.shared and meta.person:
        raise BadRequest("a cube is either `shared` or a `person`'s", param="meta.person")
    if meta.shared:
        return SHARED
    if meta.person and (person := check_person(meta.person)) != principal.person:
        principal.require(Role.ADMIN)
        return PersonId(person)
    return principal.person


def expiry(session: Session, tenant: str, meta: NewMeta, created_us: int) -> int | None:
    """End of a new cube: its own, or that of the tenant's policy. Raises BadRequest."""
    if meta.expires is not None and meta.ttl_seconds is not None:
        raise BadRequest("give `expires` or `ttl_seconds`, not both", param="meta.ttl_seconds")
    if meta.expires is not None:
        return to_us(meta.expires)
    seconds = meta.ttl_seconds
    if seconds is None and not _CONSOLIDATED & set(meta.tags):
        seconds = records.policy_in(session, tenant).default_ttl_seconds
    return created_us + seconds * 1_000_000 if seconds else None


def check_current(row: CubeRow, if_match: str | None) -> None:
    if if_match is not None and if_match != row.head_version:
        raise Conflict(
            f"the cube was changed meanwhile: its current version is {row.head_version}; read it and try again",
            param="If-Match",
        )
