"""What a change does to a cube's header and items; refuses what is not legal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from memos_vllm.cube.ids import SHARED, PersonId, to_us
from memos_vllm.cube.lifecycle import check_transition, check_writable
from memos_vllm.cube.model import CubePatch, ExplicitPayload, Item, NewMeta, Payload, State
from memos_vllm.errors import BadRequest, Conflict, NotBuilt, TooLarge
from memos_vllm.governance.principal import Principal, Role, check_person
from memos_vllm.vault import records
from memos_vllm.vault.tables import CubeRow


def apply(
    row: CubeRow, patch: CubePatch, current: Callable[[], list[Item]]
) -> tuple[str, Sequence[Item] | None]:
    """Change the header by the patch; returns the action and the new items (None: unchanged)."""
    if patch.payload is not None and patch.append is not None:
        raise BadRequest(
            "`payload` replaces what `append` would add to: give one of them", param="append"
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
        return "append", [*current(), *patch.append]
    if patch.payload is not None:
        return "update", items_of(patch.payload)
    return "update", None


def items_of(payload: Payload) -> list[Item]:
    if not isinstance(payload, ExplicitPayload):
        raise NotBuilt(
            f"memory of the kind `{payload.type}` is not served by this version; store `explicit` text"
        )
    if isinstance(payload.content, str):
        return [Item(text=payload.content)] if payload.content.strip() else []
    return payload.content


def built_items(payload: Payload, limit: int) -> list[Item]:
    content = items_of(payload)
    if len(content) > limit:
        raise TooLarge(
            f"a cube holds at most {limit} items; this one has {len(content)}", param="payload"
        )
    return content


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
            f"the cube has moved on: its current version is {row.head_version}; read it and try again",
            param="If-Match",
        )
