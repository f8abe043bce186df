"""Derivation of cubes: staleness when a source changes, and readers of the derived cubes.

Runs inside the transaction of the change, so that each derived cube has its record.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from memos_vllm.cube.ids import CubeId, PersonId, TenantId, new_id, now_us
from memos_vllm.cube.lifecycle import READABLE
from memos_vllm.cube.model import Provenance, State
from memos_vllm.errors import Unprocessable
from memos_vllm.governance.permit import BITS, OPEN, Effect, Permission, SubjectKind
from memos_vllm.governance.principal import MAX_NAME_LENGTH, Principal, Role
from memos_vllm.vault import items, lookup, records
from memos_vllm.vault.tables import CubeRow, DerivedRow, GrantRow, TransformRow, VersionRow


@dataclasses.dataclass(frozen=True, slots=True)
class Orphan:
    """A derived cube that was deleted with one of its sources."""

    cube: str
    name: str | None
    person: str
    sources: tuple[str, ...]
    """Its sources that still exist."""
    made_by: tuple[str, dict[str, Any]] | None
    """Kind and request of the job that made it."""


@dataclasses.dataclass
class Deletion:
    cube: CubeId
    stale: list[str] = dataclasses.field(default_factory=list)
    """Cubes derived from it, directly or not, that the caller may read."""
    gone: list[Orphan] = dataclasses.field(default_factory=list)
    """Derived cubes that were deleted, too (`cascade`)."""
    jobs: list[str] = dataclasses.field(default_factory=list)
    """Jobs that train adapters again which were deleted, from their other sources."""


def record(session: Session, principal: Principal, cube: CubeRow, made_of: Provenance) -> None:
    """Record the parents of a cube's new version.

    Parents of older versions stay recorded: a rollback can restore those versions.  Parents that the
    principal cannot read (of an import, of another vault) are in the provenance only.
    """
    read = dict(zip(made_of.parents, made_of.parent_versions, strict=False))
    # Locked, so that no parent is deleted before the end of the transaction.
    rows = session.scalars(
        select(CubeRow)
        .where(
            CubeRow.id.in_(set(made_of.parents)),
            CubeRow.tenant == cube.tenant,
            records.visible_to(principal, Permission.READ),
        )
        .order_by(CubeRow.id)
        .with_for_update()
    ).all()
    stale = []
    for source in rows:
        if source.id == cube.id:
            continue
        version = read.get(source.id, source.head_version)
        if not _same_payload(session, version, source.head_version):
            stale.append(source.id)
        session.merge(DerivedRow(cube_id=cube.id, source_id=source.id, version=version))
    session.flush()
    cube.stale = stale
    check_readers(session, cube)


def narrow(session: Session, source: CubeRow) -> list[str]:
    """Narrow the readers of all cubes derived from a shared source to the readers of the source.

    A derived cube loses its grants; one of the tenant gets the source's list of readers, or, where the
    source has denials, none but admins.  A person's derived cube is archived when that person may not read
    the source any more; a frozen one keeps its state and expires.

    Returns:
        Ids of the changed cubes.
    """
    if source.person or source.is_open:
        return []
    readers = source.access.get("readers") or []
    changed = []
    for cube in made_from(session, source):
        before = (dict(cube.access), cube.state, cube.expires_us)
        gone = session.execute(
            delete(GrantRow).where(
                GrantRow.cube_id == cube.id,
                GrantRow.origin != "access",
                GrantRow.effect == Effect.ALLOW,
            )
        )
        if cube.person:
            may_read = cube.state not in READABLE or _reads(session, cube, cube.person, source)
            if not may_read and cube.state == State.FROZEN:
                cube.expires_us = min(cube.expires_us or now_us(), now_us())  # held, in no prompt
            elif not may_read:
                cube.state = State.ARCHIVED
        else:
            current = cube.access.get("readers")
            both = readers if current is None else [each for each in current if each in readers]
            cube.access = {**cube.access, "readers": both}
            cube.is_open = False
            _list_readers(session, cube, [name for name in both if len(name) <= MAX_NAME_LENGTH])
        if (dict(cube.access), cube.state, cube.expires_us) != before or gone.rowcount:  # type: ignore[attr-defined]
            items.content_changed(session, cube)  # stored KV may be of former readers
            items.touch_owner(session, cube)
            changed.append(cube.id)
    session.flush()
    return changed


def _reads(session: Session, cube: CubeRow, person: str, source: CubeRow) -> bool:
    reader = Principal(TenantId(cube.tenant), Role.WRITER, "", PersonId(person))
    return lookup.is_among(session, reader, source.id)


def _list_readers(session: Session, cube: CubeRow, readers: Sequence[str]) -> None:
    """Leave the grants of an access list to these readers only."""
    of_list = (
        GrantRow.cube_id == cube.id,
        GrantRow.origin == "access",
        GrantRow.kind == SubjectKind.PERSON,
    )
    known = set(session.scalars(select(GrantRow.subject).where(*of_list)))
    session.execute(delete(GrantRow).where(*of_list, GrantRow.subject.not_in(readers)))
    for reader in dict.fromkeys(each for each in readers if each not in known):
        session.add(
            GrantRow(
                id=new_id("grant"),
                cube_id=cube.id,
                tenant=cube.tenant,
                kind=SubjectKind.PERSON,
                subject=reader,
                effect=Effect.ALLOW,
                permissions=sum(BITS[each] for each in OPEN),
                origin="access",
                created_us=now_us(),
            )
        )


def mark(session: Session, source: CubeRow) -> list[CubeRow]:
    """Mark all cubes derived from a source as stale, as it changes or is deleted; returns them."""
    marked = made_from(session, source)
    for cube in marked:
        if source.id not in cube.stale:
            cube.stale = [*cube.stale, source.id]
    return marked


def orphan(session: Session, cube: CubeRow, deleted: Sequence[str]) -> Orphan:
    """Record from which a deleted derived cube can be made again.

    Args:
        deleted: ids of the cubes that this transaction deletes.
    """
    sources = session.scalars(
        select(CubeRow.id)
        .join(DerivedRow, DerivedRow.source_id == CubeRow.id)
        .where(DerivedRow.cube_id == cube.id, CubeRow.id.not_in(deleted))
        .order_by(CubeRow.id)
    )
    made_by = session.execute(
        select(TransformRow.kind, TransformRow.request).where(TransformRow.made == cube.id).limit(1)
    ).first()
    job = None if made_by is None else (made_by.kind, dict(made_by.request))
    return Orphan(cube.id, cube.name, cube.person, tuple(sources), job)


def check_readers(session: Session, cube: CubeRow) -> None:
    """Raise Unprocessable when a reader of the cube may not read one of its sources."""
    for source in _sources_of(session, cube):
        if source.person:
            is_wider = cube.person != source.person
        elif source.is_open:
            is_wider = False
        else:
            is_wider = _is_wider(session, cube, source)
        if is_wider:
            raise Unprocessable(
                f"it was made from {source.id}, which not all of its readers may read: give it to fewer",
                param="access",
            )


def _is_wider(session: Session, cube: CubeRow, source: CubeRow) -> bool:
    """Whether the cube has readers that its restricted source has not, or might get some."""
    granted = select(GrantRow.id).where(
        GrantRow.cube_id == cube.id,
        GrantRow.origin != "access",
        GrantRow.effect == Effect.ALLOW,
    )
    if session.scalar(granted.limit(1)) is not None:
        return True
    readers = [cube.person] if cube.person else cube.access.get("readers")
    return readers is None or not all(_reads(session, cube, each, source) for each in readers)


def _sources_of(session: Session, cube: CubeRow) -> list[CubeRow]:
    """All cubes that it was made from, directly or not."""
    found: dict[str, CubeRow] = {}
    cubes = [cube.id]
    while cubes:
        sources = session.scalars(
            select(CubeRow)
            .join(DerivedRow, DerivedRow.source_id == CubeRow.id)
            .where(DerivedRow.cube_id == cubes.pop())
        )
        for source in sources:
            if source.id not in found and source.id != cube.id:
                found[source.id] = source
                cubes.append(source.id)
    return list(found.values())


def made_from(session: Session, source: CubeRow) -> list[CubeRow]:
    """All cubes derived from a source, directly or not."""
    found: dict[str, CubeRow] = {}
    sources = [source.id]
    while sources:
        made = session.scalars(
            select(CubeRow)
            .join(DerivedRow, DerivedRow.cube_id == CubeRow.id)
            .where(DerivedRow.source_id == sources.pop())
            .order_by(CubeRow.id)
        )
        for cube in made:
            if cube.id not in found and cube.id != source.id:
                found[cube.id] = cube
                sources.append(cube.id)
    return list(found.values())


def _same_payload(session: Session, one: str, other: str) -> bool:
    versions = [session.get(VersionRow, version) for version in (one, other)]
    digests = {version.payload_sha256 for version in versions if version is not None}
    return one == other or (None not in versions and len(digests) == 1)
