"""Conversion between rows and models, and the one rule for which cubes a principal can see.

The rule is a condition of the query (`visible_to`, `all_visible_to`), so that no row of a cube which it
hides leaves the database; `tests/unit/test_borders.py` finds queries of memory without it.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
from collections import Counter
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Row,
    Select,
    and_,
    bindparam,
    false,
    not_,
    or_,
    select,
    true,
    union_all,
)
from sqlalchemy.orm import Session, aliased, object_session

from memos_vllm import metrics
from memos_vllm.config.policies import MemoryKind, TenantPolicy
from memos_vllm.cube.ids import (
    SHARED,
    CubeId,
    ItemId,
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
from memos_vllm.governance.permit import (
    ALL,
    BITS,
    OPEN,
    Effect,
    Permission,
    Permissions,
    SubjectKind,
)
from memos_vllm.governance.principal import EVERY_PERSONA, Principal, Role, persona_of
from memos_vllm.vault.database import POLICY_OF
from memos_vllm.vault.tables import CubeRow, GrantRow, GroupMemberRow, ItemRow, VersionRow

log = logging.getLogger(__name__)
KIND_NAMES: dict[Kind, MemoryKind] = {
    Kind.EXPLICIT: "plaintext",
    Kind.ACTIVATION: "activation",
    Kind.PARAMETRIC: "parametric",
}
"""Kinds by their names in policies."""

_KEPT_CONDITIONS = 100
"""Of each form; one takes some 80 KiB."""
_NOW = bindparam("now", callable_=lambda: now_us(), type_=BigInteger)
"""The time at which a statement runs, µs."""


def visible_to(principal: Principal, *permissions: Permission) -> ColumnElement[bool]:
    """SQL for `permit.permitted`: cubes on which the principal has all of these permissions (`read` where
    none is named). For queries that name their cubes by id or owner; `all_visible_to` scans.
    """
    return _visible_to(_subject(principal), permissions)


def all_visible_to(principal: Principal, *permissions: Permission) -> ColumnElement[bool]:
    """The same condition, of `read` and `use`, for a query over all cubes: it is read from the indexes of
    owners and grants, so that its time depends on what the principal has, not on what others have."""
    return _all_visible_to(_subject(principal), permissions)


def granted_to(principal: Principal, *permissions: Permission) -> Select[str]:
    """Ids of the cubes on which grants give the principal all of these permissions."""
    return _granted_to(_subject(principal), permissions)


def _subject(principal: Principal) -> Principal:
    """The principal without what no rule depends on: the key of conditions that were built before.

    Building one takes longer than the database takes to answer it. The time in it is read when it runs.
    """
    return dataclasses.replace(principal, session=None, persona=None)


def forget_people(_: object = None) -> None:
    """Drop all conditions: they hold names of people. Called when one was erased."""
    for built in (_visible_to, _all_visible_to, _granted_to):
        built.cache_clear()


@functools.lru_cache(_KEPT_CONDITIONS)
def _visible_to(principal: Principal, permissions: tuple[Permission, ...]) -> ColumnElement[bool]:
    if not principal.tenant:
        return false()
    rules = [_permits(principal, each) for each in permissions or (Permission.READ,)]
    return and_(CubeRow.tenant == principal.tenant, *rules)


@functools.lru_cache(_KEPT_CONDITIONS)
def _all_visible_to(
    principal: Principal, permissions: tuple[Permission, ...]
) -> ColumnElement[bool]:
    assert OPEN.issuperset(permissions)
    if not principal.tenant:
        return false()
    wanted = set(permissions or (Permission.READ,)) - _of_every_cube(principal)
    if not wanted:
        return CubeRow.tenant == principal.tenant
    cube = aliased(CubeRow)
    ids = select(cube.id).where(cube.tenant == principal.tenant)
    parts = [
        _granted_to(principal, tuple(sorted(wanted))),
        ids.where(cube.person == SHARED, cube.is_open),
    ]
    if principal.person:
        parts.append(ids.where(cube.person == principal.person))
    return and_(CubeRow.tenant == principal.tenant, CubeRow.id.in_(union_all(*parts)))


@functools.lru_cache(_KEPT_CONDITIONS)
def _granted_to(principal: Principal, permissions: tuple[Permission, ...]) -> Select[str]:
    query = select(GrantRow.cube_id).where(_grants(principal, permissions[0], Effect.ALLOW))
    for each in permissions[1:]:
        allowed = select(GrantRow.cube_id).where(_grants(principal, each, Effect.ALLOW))
        query = query.where(GrantRow.cube_id.in_(allowed))
    for each in permissions:
        denied = select(GrantRow.cube_id).where(_grants(principal, each, Effect.DENY))
        query = query.where(GrantRow.cube_id.not_in(denied))
    return query


def _permits(principal: Principal, permission: Permission) -> ColumnElement[bool]:
    if permission in _of_every_cube(principal):
        return true()

    def on_it(effect: Effect) -> ColumnElement[bool]:
        grant = select(GrantRow.id).where(
            GrantRow.cube_id == CubeRow.id, _grants(principal, permission, effect)
        )
        return grant.exists()

    rules = [and_(on_it(Effect.ALLOW), not_(on_it(Effect.DENY)))]
    if permission in OPEN:
        rules.append(CubeRow.is_open.is_(True))
    if principal.person:
        rules.append(CubeRow.person == principal.person)
    return or_(*rules)


def _grants(principal: Principal, permission: Permission, effect: Effect) -> ColumnElement[bool]:
    """Grants that name the principal and have not expired."""
    roles = [principal.role]
    if principal.token_id and effect is Effect.DENY:
        roles = list(Role)
    names = [
        GrantRow.kind == SubjectKind.TENANT,
        and_(GrantRow.kind == SubjectKind.ROLE, GrantRow.subject.in_(roles)),
    ]
    if principal.person:
        groups = select(GroupMemberRow.group_id).where(
            GroupMemberRow.tenant == principal.tenant, GroupMemberRow.person == principal.person
        )
        names += [
            and_(GrantRow.kind == SubjectKind.PERSON, GrantRow.subject == principal.person),
            and_(GrantRow.kind == SubjectKind.GROUP, GrantRow.subject.in_(groups)),
        ]
    return and_(
        GrantRow.tenant == principal.tenant,
        GrantRow.effect == effect,
        GrantRow.permissions.op("&")(BITS[permission]) != 0,
        or_(GrantRow.expires_us.is_(None), GrantRow.expires_us > _NOW),
        or_(*names),
    )


def _of_every_cube(principal: Principal) -> Permissions:
    """Permissions that the principal has on every cube of its tenant."""
    return ALL - {Permission.USE} if principal.can(Role.ADMIN) else frozenset()


def is_listed(row: CubeRow) -> bool:
    """Whether a shared cube is not everyone's: what is derived for prompts is each reader's own."""
    return not row.person and not row.is_open


def is_active(row: CubeRow) -> bool:
    """Whether a cube may stand in prompts of those who may use it now."""
    is_readable = effective_state(row) in READABLE and not _is_over(row)
    return is_readable and _is_of_allowed_kind(row)


def has_place(principal: Principal, row: CubeRow) -> bool:
    """Whether a cube that the principal may use stands in a prompt without being named: it is active, and
    its persona, if it has one, is the principal's. The persona is no matter of permission."""
    persona = persona_of(row.tags)
    fits = persona is None or principal.persona in (persona, EVERY_PERSONA)
    return fits and is_active(row)


def effective_state(row: CubeRow, at_us: int | None = None) -> State:
    """State with `expires` applied: a cube past it is expired, though its row may not say so yet.

    A frozen cube stays frozen: the hold protects it from what happens to expired ones.
    """
    if row.state != State.FROZEN and _is_over(row, at_us):
        return State.EXPIRED
    return State(row.state)


def _is_over(row: CubeRow, at_us: int | None = None) -> bool:
    moment = now_us() if at_us is None else at_us
    return row.expires_us is not None and row.expires_us <= moment


def is_ended(row: CubeRow) -> bool:
    """Whether a cube stands in no prompt of any moment: it is past its end, or of a kind that the policy of
    now does not allow, whatever its state then."""
    return row.state == State.EXPIRED or _is_over(row) or not _is_of_allowed_kind(row)


def policy_in(session: Session, tenant: str) -> TenantPolicy:
    """Policy of a tenant, which every session of the vault can ask for."""
    policy: TenantPolicy = session.info[POLICY_OF](tenant)
    return policy


def _is_of_allowed_kind(row: CubeRow) -> bool:
    session = object_session(row)
    assert session is not None, "the policy is asked for inside the transaction that reads the row"
    return policy_in(session, row.tenant).allows(KIND_NAMES[Kind(row.kind)])


def header_then(row: CubeRow) -> dict[str, Any]:
    """Fields of the header that a version records, so that a past moment is read as it was."""
    return {
        "name": row.name,
        "state": row.state,
        "placement": row.placement,
        "priority": row.priority,
        "tags": list(row.tags),
    }


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


def item_model(row: ItemRow | Row[Any]) -> Item | None:
    """The item of a row, or of its columns; None: it is damaged, which costs this item and no other."""
    try:
        return _item(row)
    except (ValueError, TypeError, OverflowError, OSError) as error:
        log.error("item %s of cube %s is damaged and left out: %s", row.id, row.cube_id, error)
        metrics.DAMAGED_ITEMS.inc()
        return None


def _item(row: ItemRow | Row[Any]) -> Item:
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
