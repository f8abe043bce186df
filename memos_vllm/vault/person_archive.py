"""Reading of a whole person for their archive: cubes with history, grants, turns that wait.

What is left out is counted: versions that still hold what the person had forgotten, damaged payloads,
stored replies of `/v1/responses`.  KV is never read: the other server computes it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from memos_vllm.cube.archive import (
    ArchivedCube,
    ArchivedGrant,
    ArchivedHeader,
    ArchivedVersion,
    runs_of,
)
from memos_vllm.cube.ids import CubeId, CubeVersion, Sha256, TenantId, canonical_json, to_datetime
from memos_vllm.cube.model import Access, Item, Kind, Placement, Provenance, State
from memos_vllm.errors import DamagedPayload
from memos_vllm.governance.permit import SubjectKind
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.vault import contents, lookup
from memos_vllm.vault.database import Database
from memos_vllm.vault.payloads import PayloadStore
from memos_vllm.vault.response_tables import ConversationRow, ResponseRow
from memos_vllm.vault.tables import (
    CubeRow,
    ForgettingRow,
    GrantRow,
    GroupRow,
    PendingTurnRow,
    VersionRow,
)

_OF_SERVER = "key"
"""Field of a turn that waits which means something on this server alone."""


@dataclasses.dataclass
class ReadCube:
    """A cube as it is archived."""

    cube: ArchivedCube
    tenant: str
    local: str
    """Id of the cube in this vault."""
    forgotten: int = 0
    """Versions that are left out: they hold what was forgotten."""
    damaged: int = 0
    """Versions that are left out: their payload is damaged."""


class PersonArchive:
    def __init__(self, database: Database, payloads: PayloadStore) -> None:
        self._database, self._payloads = database, payloads

    def cubes(self, principal: Principal) -> list[str]:
        """Ids of the person's cubes, oldest first. Raises Forbidden."""
        principal.require(Role.ADMIN)
        query = select(CubeRow.id).where(
            CubeRow.tenant == principal.tenant, CubeRow.person == principal.person
        )
        with self._database.read() as session:
            return list(session.scalars(query.order_by(CubeRow.created_us, CubeRow.id)))

    def responses(self, principal: Principal) -> int:
        """Number of the person's stored replies and conversations, which stay on this server."""
        count = 0
        with self._database.read() as session:
            for table in (ResponseRow, ConversationRow):
                mine = (table.tenant == principal.tenant, table.person == principal.person)
                count += session.scalar(select(func.count()).select_from(table).where(*mine)) or 0
        return count

    def turns(self, principal: Principal) -> list[dict[str, Any]]:
        """Bodies of the person's turns that are not yet memory, oldest first."""
        query = select(PendingTurnRow.body).where(
            PendingTurnRow.tenant == principal.tenant, PendingTurnRow.person == principal.person
        )
        with self._database.read() as session:
            found = session.scalars(query.order_by(PendingTurnRow.id)).all()
        return [
            {name: value for name, value in body.items() if name != _OF_SERVER} for body in found
        ]

    def cube(self, principal: Principal, cube: str) -> ReadCube | None:
        """A cube of the person; None: it was deleted meanwhile.

        Raises:
            DamagedPayload: of its current version.
        """
        principal.require(Role.ADMIN)
        mine = (CubeRow.tenant == principal.tenant, CubeRow.person == principal.person)
        with self._database.read() as session:
            row = session.scalar(select(CubeRow).where(CubeRow.id == cube, *mine))
            if row is None:
                return None
            read = ReadCube(_header(session, row), row.tenant, row.id)
            versions, read.forgotten = _versions(session, row)
            archived = [(each, _version(session, principal, each)) for each in versions]
        return self._with_contents(row, read, archived)

    def file(self, read: ReadCube, digest: str) -> bytes:
        """File of an adapter's version. Raises DamagedPayload."""
        return self._payloads.get(TenantId(read.tenant), CubeId(read.local), Sha256(digest))

    def _with_contents(
        self,
        row: CubeRow,
        read: ReadCube,
        archived: Sequence[tuple[VersionRow, ArchivedVersion]],
    ) -> ReadCube:
        pool = _Pool()
        kept = []
        for version, form in archived:
            is_head = version.id == row.head_version
            try:
                data = self._payloads.get(
                    TenantId(row.tenant), CubeId(read.local), Sha256(version.payload_sha256)
                )
                content = contents.of_file(row.kind, data, row.id)
            except DamagedPayload:
                if is_head:
                    raise
                read.damaged += 1
                continue
            if content.kind is Kind.PARAMETRIC:
                kept.append(form.model_copy(update={"file": version.payload_sha256}))
            else:
                runs = runs_of([pool.number(item) for item in content.items])
                kept.append(form.model_copy(update={"runs": runs}))
        read.cube = read.cube.model_copy(update={"versions": kept, "items": pool.items})
        return read


class _Pool:
    """Items of all versions, each once."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self._known: dict[bytes, int] = {}

    def number(self, item: Item) -> int:
        plain = item.model_copy(update={"id": None})
        key = canonical_json(plain.model_dump(mode="json"))
        if key not in self._known:
            self._known[key] = len(self.items)
            self.items.append(plain)
        return self._known[key]


def _header(session: Session, row: CubeRow) -> ArchivedCube:
    return ArchivedCube.model_construct(
        id=row.origin_id or row.id,
        name=row.name,
        kind=Kind(row.kind),  # type: ignore[arg-type]  # KV is no cube of the vault
        state=State(row.state),
        placement=Placement(row.placement),
        priority=row.priority,
        tags=list(row.tags),
        access=Access.model_validate(row.access),
        model_fingerprint=row.model_fingerprint,
        created=to_datetime(row.created_us),
        updated=to_datetime(row.updated_us),
        expires=to_datetime(row.expires_us) if row.expires_us is not None else None,
        reads=row.reads,
        last_read=to_datetime(row.last_read_us) if row.last_read_us is not None else None,
        stale=[_origin(session, row.tenant, row.person, each) for each in row.stale or ()],
        grants=_grants(session, row),
        versions=[],
        items=[],
    )


def _origin(session: Session, tenant: str, person: str, cube: str) -> str:
    """Id in archives of a cube of the person; another cube keeps its id."""
    query = select(CubeRow.origin_id).where(
        CubeRow.id == cube, CubeRow.tenant == tenant, CubeRow.person == person
    )
    return session.scalar(query) or cube


def _versions(session: Session, row: CubeRow) -> tuple[list[VersionRow], int]:
    """Versions in their order, and the number of those that hold what was forgotten."""
    of_cube = select(VersionRow).where(VersionRow.cube_id == row.id)
    found = list(session.scalars(of_cube.order_by(VersionRow.sequence)))
    last = session.scalar(
        select(func.max(ForgettingRow.sequence)).where(ForgettingRow.cube_id == row.id)
    )
    kept = [each for each in found if last is None or each.sequence > last]
    return kept, len(found) - len(kept)


def _version(session: Session, principal: Principal, row: VersionRow) -> ArchivedVersion:
    header = None
    if row.header:
        then = row.header | {
            "state": State(row.header["state"]),
            "placement": Placement(row.header["placement"]),
        }
        header = ArchivedHeader.model_construct(**then)
    return ArchivedVersion.model_construct(
        sequence=row.sequence,
        author=row.author,
        action=row.action,  # type: ignore[arg-type]  # the column holds only these words
        created=to_datetime(row.created_us),
        provenance=_provenance(session, principal, Provenance.model_validate(row.provenance)),
        header=header,
        runs=[],
        file=None,
    )


def _provenance(session: Session, principal: Principal, made_of: Provenance) -> Provenance:
    """Provenance that names cubes by their ids in archives, and their versions by number."""
    owner = (principal.tenant, principal.person)
    versions = []
    for version in made_of.parent_versions:
        query = (
            select(CubeRow.id, CubeRow.origin_id, VersionRow.sequence)
            .join(VersionRow, VersionRow.cube_id == CubeRow.id)
            .where(VersionRow.id == version, CubeRow.tenant == owner[0], CubeRow.person == owner[1])
        )
        found = session.execute(query).first()
        versions.append(
            str(CubeVersion(found.origin_id or found.id, found.sequence)) if found else version
        )
    parents = [_origin(session, *owner, each) for each in made_of.parents]
    return made_of.model_copy(update={"parents": parents, "parent_versions": versions})


def _grants(session: Session, row: CubeRow) -> list[ArchivedGrant]:
    query = (
        select(GrantRow, GroupRow.name)
        .outerjoin(GroupRow, GroupRow.id == GrantRow.group_id)
        .where(GrantRow.cube_id == row.id, GrantRow.origin == "grant")
    )
    found = []
    for grant, group in session.execute(query):
        given = lookup.grant_of(grant)
        found.append(
            ArchivedGrant(
                kind=given.kind.value,
                subject=group if given.kind is SubjectKind.GROUP else given.subject,
                effect=given.effect.value,
                permissions=sorted(each.value for each in given.permissions),
                expires=to_datetime(given.expires_us) if given.expires_us is not None else None,
                made_by=given.made_by,
            )
        )
    return sorted(found, key=lambda each: (each.kind, each.subject, each.effect))
