"""Which cube was made from which: what is stale when a source changes, and who may read what was made.

Called inside the transaction of the change, so that no cube is ever made from something and not known
to be.
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
    """A cube that was deleted because one that it was made from was."""

    cube: str
    name: str | None
    person: str
    sources: tuple[str, ...]
    """What it was made from that is still there."""
    job: dict[str, Any] | None
    """What the job that made it was asked."""


@dataclasses.dataclass
class Deletion:
    cube: CubeId
    stale: list[str] = dataclasses.field(default_factory=list)
    """What was made from it, and from that, as far as whoever deletes may read it."""
    gone: list[Orphan] = dataclasses.field(default_factory=list)
    """All of it, where it was deleted too."""


def record(session: Session, principal: Principal, cube: CubeRow, made_of: Provenance) -> None:
    """A version of the cube was made from these parents.

    What older versions were made from stays known: they can come back.  Parents that whoever writes
    cannot read (of an import, of another vault) are only told of in the provenance.
    """
    read = dict(zip(made_of.parents, made_of.parent_versions, strict=False))
    # Locked: none of them is deleted between this and the end of the transaction.
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
        if not _says_the_same(session, version, source.head_version):
            stale.append(source.id)
        session.merge(DerivedRow(cube_id=cube.id, source_id=source.id, version=version))
    session.flush()
    cube.stale = stale
    check_readers(session, cube)


def narrow(session: Session, source: CubeRow) -> list[str]:
    """The source may be read by fewer: so may be what was made from it, and from that.

    A person's own that they may not read any more serves them no more: it is archived.
    Returns the ids of what was changed.
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
            theirs = cube.access.get("readers")
            both = readers if theirs is None else [each for each in theirs if each in readers]
            cube.access = {**cube.access, "readers": both}
        if (dict(cube.access), cube.state) != before:
            changed.append(cube.id)
    return changed


def mark(session: Session, source: CubeRow) -> list[CubeRow]:
    """The source holds something else now, or goes: what was made from it is stale, and what was made
    from that. Returns all of it."""
    marked = _made_from(session, source)
    for cube in marked:
        if source.id not in cube.stale:
            cube.stale = [*cube.stale, source.id]
    return marked


def orphan(session: Session, cube: CubeRow, going: Sequence[str]) -> Orphan:
    """What making it again takes. Args: going: cubes that are deleted now."""
    sources = session.scalars(
        select(CubeRow.id)
        .join(DerivedRow, DerivedRow.source_id == CubeRow.id)
        .where(DerivedRow.cube_id == cube.id, CubeRow.id.not_in(going))
        .order_by(CubeRow.id)
    )
    request = session.scalar(
        select(TransformRow.request).where(TransformRow.made == cube.id).limit(1)
    )
    return Orphan(cube.id, cube.name, cube.person, tuple(sources), request)


def check_readers(session: Session, cube: CubeRow) -> None:
    """Raise Unprocessable when the cube can be read by somebody who may not read what it was made of."""
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
    """What was made from it, and from that."""
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


def _says_the_same(session: Session, one: str, other: str) -> bool:
    versions = [session.get(VersionRow, version) for version in (one, other)]
    digests = {version.payload_sha256 for version in versions if version is not None}
    return one == other or (None not in versions and len(digests) == 1)
