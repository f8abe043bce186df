"""Conversion between rows and models, and the one rule for which rows a principal can see."""

from __future__ import annotations

import json
import logging
from collections import Counter
from typing import Any

from sqlalchemy import ColumnElement, and_, false, or_

from memos_vllm import metrics
from memos_vllm.cube.ids import (
    SHARED,
    CubeId,
    ItemId,
    PersonId,
    TenantId,
    canonical_json,
    now_us,
    sha256,
    to_datetime,
    to_us,
)
from memos_vllm.cube.lifecycle import READABLE
from memos_vllm.cube.model import (
    Access,
    Claim,
    Header,
    Item,
    Kind,
    Mark,
    Placement,
    Provenance,
    State,
    Usage,
    Version,
)
from memos_vllm.cube.moments import within_range
from memos_vllm.errors import DamagedPayload
from memos_vllm.governance.permit import may_inject, may_read
from memos_vllm.governance.principal import EVERY_PERSONA, Principal, Role, persona_of
from memos_vllm.vault.tables import CubeRow, ItemRow, VersionRow

log = logging.getLogger(__name__)


def visible_to(principal: Principal) -> ColumnElement[bool]:
    """SQL for `may_read` without the access list, which `readable` checks in the row's JSON."""
    if not principal.tenant:
        return false()
    if principal.can(Role.ADMIN):
        return CubeRow.tenant == principal.tenant
    return and_(
        CubeRow.tenant == principal.tenant,
        or_(CubeRow.person == SHARED, CubeRow.person == principal.person),
    )


def readable(principal: Principal, row: CubeRow) -> bool:
    return may_read(
        principal, TenantId(row.tenant), PersonId(row.person), row.access.get("readers")
    )


def injectable(principal: Principal, row: CubeRow) -> bool:
    return may_inject(
        principal, TenantId(row.tenant), PersonId(row.person), row.access.get("readers")
    )


def is_listed(row: CubeRow) -> bool:
    """Whether a shared cube has a list of readers: what is derived for prompts is each reader's own."""
    return row.access.get("readers") is not None


def usable(principal: Principal, row: CubeRow) -> bool:
    """Whether a cube may stand in the principal's prompts now."""
    return effective_state(row) in READABLE and injectable(principal, row)


def has_place(principal: Principal, row: CubeRow) -> bool:
    """Whether a cube may stand in a prompt without being named: it is usable, and its persona, if it
    has one, is the principal's. The persona is no matter of permission."""
    persona = persona_of(row.tags)
    fits = persona is None or principal.persona in (persona, EVERY_PERSONA)
    return fits and usable(principal, row)


def effective_state(row: CubeRow, at_us: int | None = None) -> State:
    """State with `expires` applied: a cube past it is expired, though its row may not say so yet."""
    moment = now_us() if at_us is None else at_us
    if row.expires_us is not None and row.expires_us <= moment:
        return State.EXPIRED
    return State(row.state)


def header(row: CubeRow, version: VersionRow) -> Header:
    return Header(
        id=row.id,
        tenant=row.tenant,
        person=row.person or None,
        name=row.name,
        kind=Kind(row.kind),
        state=effective_state(row),
        placement=Placement(row.placement),
        priority=row.priority,
        tags=list(row.tags),
        access=Access.model_validate(row.access),
        version=version.id,
        sequence=version.sequence,
        parent=version.parent,
        author=version.author,
        provenance=Provenance.model_validate(version.provenance),
        model_fingerprint=row.model_fingerprint,
        stale=list(row.stale or ()),
        created=to_datetime(row.created_us),
        updated=to_datetime(row.updated_us),
        expires=to_datetime(row.expires_us) if row.expires_us is not None else None,
        usage=Usage(
            reads=row.reads,
            last_read=to_datetime(row.last_read_us) if row.last_read_us is not None else None,
        ),
    )


def version_model(row: VersionRow) -> Version:
    return Version(
        id=row.id,
        cube=row.cube_id,
        sequence=row.sequence,
        parent=row.parent,
        author=row.author,
        action=row.action,  # type: ignore[arg-type]  # the column holds only these words
        created=to_datetime(row.created_us),
        provenance=Provenance.model_validate(row.provenance),
        payload_sha256=row.payload_sha256,
        payload_bytes=row.payload_bytes,
    )


def item_model(row: ItemRow) -> Item | None:
    """The item of a row; None: it is damaged, which costs this item and no other."""
    try:
        return _item(row)
    except (ValueError, TypeError, OverflowError, OSError) as error:
        log.error("item %s of cube %s is damaged and left out: %s", row.id, row.cube_id, error)
        metrics.DAMAGED_ITEMS.inc()
        return None


def _item(row: ItemRow) -> Item:
    return Item(
        id=row.id,
        type=row.type,  # type: ignore[arg-type]  # the column holds only these words
        text=row.text,
        speaker=row.speaker,
        time=to_datetime(row.time_us) if row.time_us is not None else None,
        session=row.session,
        source=row.source,
        claim=Claim.model_validate(within_range(row.claim)) if row.claim else None,
        mark=Mark(row.mark) if row.mark else None,
    )


def identify(cube: CubeId, items: list[Item]) -> list[Item]:
    """Items with their ids: a digest of cube and content, so an unchanged item keeps its id (and its
    vectors) from version to version. The second of two equal items gets an id of its own."""
    seen: Counter[str] = Counter()
    identified = []
    for item in items:
        body = _item_json(item)
        body.pop("id")
        body.pop("claim", None)  # repeated, or ended: it is the same item
        key = sha256(canonical_json([cube, body]))
        digest = sha256(f"{key}#{seen[key]}".encode()) if seen[key] else key
        seen[key] += 1
        identified.append(item.model_copy(update={"id": ItemId("item_" + digest[:32])}))
    return identified


def payload_bytes(items: list[Item]) -> bytes:
    return canonical_json({"format": "text", "items": [_item_json(item) for item in items]})


def payload_items(data: bytes, cube: str) -> list[Item]:
    try:
        tree = json.loads(data)
        return [Item.model_validate(within_range(entry)) for entry in tree["items"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedPayload(
            f"the payload of cube {cube} is not in the vault's form: {error}"
        ) from error


def _item_json(item: Item) -> dict[str, Any]:
    tree = item.model_dump(mode="json")
    if item.time is not None:
        tree["time"] = to_datetime(to_us(item.time)).isoformat()
    for absent in ("claim", "mark"):  # ids and payloads of older versions have neither
        if tree[absent] is None:
            del tree[absent]
    return tree
