"""Apply a patch to a cube's header and items; refuse illegal changes."""

from __future__ import annotations

from collections.abc import Callable

from memos_vllm.cube.ids import SHARED, PersonId, to_us
from memos_vllm.cube.lifecycle import check_transition, check_writable
from memos_vllm.cube.model import Access, CubePatch, NewMeta, State
from memos_vllm.errors import BadRequest, Conflict, Unprocessable
from memos_vllm.governance.permit import check_share
from memos_vllm.governance.principal import Principal, Role, check_person
from memos_vllm.vault import records
from memos_vllm.vault.contents import Content, appended, of_payload
from memos_vllm.vault.tables import CubeRow


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
        check_transition(state, patch.state)
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
    if patch.access is not None:
        row.access = patch.access.model_dump(mode="json")
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


def check_access(principal: Principal, row: CubeRow, patch: CubePatch) -> None:
    """Check that the principal may set the patch's access list. Raises Forbidden."""
    if patch.access is not None and patch.access != Access.model_validate(row.access):
        check_share(principal, PersonId(row.person))


def owner_of_new(principal: Principal, meta: NewMeta) -> PersonId:
    if meta.shared and meta.person:
        raise BadRequest("a cube is either `shared` or a `person`'s", param="meta.person")
    if meta.shared:
        return SHARED
    if meta.person and meta.person != principal.person:
        principal.require(Role.ADMIN)
        return PersonId(check_person(meta.person))
    return principal.person


def expiry(meta: NewMeta, created_us: int) -> int | None:
    if meta.expires is not None and meta.ttl_seconds is not None:
        raise BadRequest("give `expires` or `ttl_seconds`, not both", param="meta.ttl_seconds")
    if meta.expires is not None:
        return to_us(meta.expires)
    return created_us + meta.ttl_seconds * 1_000_000 if meta.ttl_seconds else None


def check_current(row: CubeRow, if_match: str | None) -> None:
    if if_match is not None and if_match != row.head_version:
        raise Conflict(
            f"the cube was changed meanwhile: its current version is {row.head_version}; read it and try again",
            param="If-Match",
        )
