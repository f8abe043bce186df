"""Derivation of cubes: staleness when a source changes, and readers of the derived cubes.

Runs inside the transaction of the change, so that each derived cube has its record.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from memos_vllm.cube.ids import CubeId
from memos_vllm.cube.lifecycle import READABLE
from memos_vllm.cube.model import Provenance, State
from memos_vllm.errors import Unprocessable
from memos_vllm.governance.principal import Principal
from memos_vllm.vault import records
from memos_vllm.vault.tables import CubeRow, DerivedRow, TransformRow, VersionRow


@dataclasses.dataclass(frozen=True, slots=True)
class Orphan:
    """A derived cube that was deleted with one of its sources."""

    cube: str
    name: str | None
    person: str
    sources: tuple[str, ...]
    """Its sources that still exist."""
    job: dict[str, Any] | None
    """Request of the job that made it."""


@dataclasses.dataclass
class Deletion:
    cube: CubeId
    stale: list[str] = dataclasses.field(default_factory=list)
    """Cubes derived from it, directly or not, that the caller may read."""
    gone: list[Orphan] = dataclasses.field(default_factory=list)
    """Derived cubes that were deleted, too (`cascade`)."""


def record(session: Session, principal: Principal, cube: CubeRow, made_of: Provenance) -> None:
    """Record the parents of a cube's new version.

    Parents of older versions stay recorded: a rollback can restore those versions.  Parents that the
    principal cannot read (of an import, of another vault) are in the provenance only.
    """
    read = dict(zip(made_of.parents, made_of.parent_versions, strict=False))
    # Locked, so that no parent is deleted before the end of the transaction.
    rows = session.scalars(
        select(CubeRow)
        .where(CubeRow.id.in_(set(made_of.parents)), CubeRow.tenant == cube.tenant)
        .order_by(CubeRow.id)
        .with_for_update()
    ).all()
    stale = []
    for source in rows:
        if source.id == cube.id or not records.readable(principal, source):
            continue
        version = read.get(source.id, source.head_version)
        if not _same_payload(session, version, source.head_version):
            stale.append(source.id)
        session.merge(DerivedRow(cube_id=cube.id, source_id=source.id, version=version))
    session.flush()
    cube.stale = stale
    check_readers(session, cube)


def narrow(session: Session, source: CubeRow) -> list[str]:
    """Narrow the readers of all cubes derived from a source to the readers of the source.

    A person's derived cube is archived when that person may not read the source any more.

    Returns:
        Ids of the changed cubes.
    """
    readers = source.access.get("readers")
    if source.person or readers is None:
        return []
    changed = []
    for cube in _made_from(session, source):
        before = (dict(cube.access), cube.state)
        if cube.person:
            if cube.person not in readers and cube.state in READABLE:
                cube.state = State.ARCHIVED
        else:
            current = cube.access.get("readers")
            both = readers if current is None else [each for each in current if each in readers]
            cube.access = {**cube.access, "readers": both}
        if (dict(cube.access), cube.state) != before:
            changed.append(cube.id)
    return changed


def mark(session: Session, source: CubeRow) -> list[CubeRow]:
    """Mark all cubes derived from a source as stale, as it changes or is deleted; returns them."""
    marked = _made_from(session, source)
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
    request = session.scalar(
        select(TransformRow.request).where(TransformRow.made == cube.id).limit(1)
    )
    return Orphan(cube.id, cube.name, cube.person, tuple(sources), request)


def check_readers(session: Session, cube: CubeRow) -> None:
    """Raise Unprocessable when a reader of the cube may not read one of its sources."""
    sources = session.scalars(
        select(CubeRow)
        .join(DerivedRow, DerivedRow.source_id == CubeRow.id)
        .where(DerivedRow.cube_id == cube.id)
    )
    readers = cube.access.get("readers")
    for source in sources:
        if source.person:
            is_wider = cube.person != source.person
        elif cube.person:
            of = source.access.get("readers")
            is_wider = of is not None and cube.person not in of
        else:
            of = source.access.get("readers")
            is_wider = of is not None and (readers is None or not set(readers) <= set(of))
        if is_wider:
            raise Unprocessable(
                f"it was made from {source.id}, which not all of its readers may read: give it to fewer",
                param="access",
            )


def _made_from(session: Session, source: CubeRow) -> list[CubeRow]:
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
