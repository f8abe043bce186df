"""Which cube was made from which: what is stale when a source changes, and who may read what was made.

Called inside the transaction of the change, so that no cube is ever made from something and not known
to be.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from memos_vllm.cube.ids import CubeId
from memos_vllm.errors import Unprocessable
from memos_vllm.governance.principal import Principal
from memos_vllm.vault import records
from memos_vllm.vault.tables import CubeRow, DerivedRow, TransformRow


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


def record(session: Session, principal: Principal, cube: CubeRow, parents: Sequence[str]) -> None:
    """A version of the cube was made from these cubes, as they are now.

    Parents that whoever writes cannot read (of an import, of another vault) are only told of in the
    provenance.
    """
    session.execute(delete(DerivedRow).where(DerivedRow.cube_id == cube.id))
    rows = session.scalars(
        select(CubeRow).where(CubeRow.id.in_(set(parents)), CubeRow.tenant == cube.tenant)
    ).all()
    for source in rows:
        if source.id != cube.id and records.readable(principal, source):
            session.add(
                DerivedRow(cube_id=cube.id, source_id=source.id, version=source.head_version)
            )
    session.flush()
    cube.stale = []
    check_readers(session, cube)


def mark(session: Session, source: CubeRow) -> list[CubeRow]:
    """The source holds something else now, or goes: what was made from it is stale, and what was made
    from that. Returns all of it."""
    marked: dict[str, CubeRow] = {}
    sources = [source.id]
    while sources:
        here = sources.pop()
        made = session.scalars(
            select(CubeRow)
            .join(DerivedRow, DerivedRow.cube_id == CubeRow.id)
            .where(DerivedRow.source_id == here)
            .order_by(CubeRow.id)
        )
        for cube in made:
            if cube.id in marked or cube.id == source.id:
                continue
            marked[cube.id] = cube
            sources.append(cube.id)
            if source.id not in cube.stale:
                cube.stale = [*cube.stale, source.id]
    return list(marked.values())


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
