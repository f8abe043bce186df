"""Writing of a person's archive: each cube with its history in one transaction, once.

A cube of the archive is known by its id there (`origin_id`), or by its own id on the server that made it:
importing it again changes nothing, whatever has become of it since.  Times, authors and provenance are
those of the archive; the audit log says who imported it and when.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

from sqlalchemy import or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from memos_vllm.cube.archive import ArchivedCube, ArchivedGrant, ArchivedVersion
from memos_vllm.cube.ids import (
    CubeId,
    CubeVersion,
    PersonId,
    TenantId,
    VersionId,
    new_cube_id,
    now_us,
    to_us,
    version_id,
)
from memos_vllm.cube.model import (
    ExplicitPayload,
    Kind,
    NewCube,
    NewMeta,
    Placement,
    Provenance,
)
from memos_vllm.errors import Conflict, NotFound, TooLarge
from memos_vllm.governance.permit import Effect, Grant, Permission, SubjectKind
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.governance.redaction.redactor import Redactor
from memos_vllm.vault import audit, changes, derived, fence, grants, items, records
from memos_vllm.vault.contents import Content
from memos_vllm.vault.database import Database
from memos_vllm.vault.payloads import PayloadStore
from memos_vllm.vault.tables import CubeRow, VersionRow

_PART = re.compile(r"(?P<series>.+)#(?P<number>[1-9][0-9]{0,8})")
_PROFILE, _FACTS = "profile", "facts"
_LONGEST_NAME = 200
_TRIES = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Restored:
    cube: CubeId
    is_new: bool
    name: str | None = None
    """Name that it got, where its own was taken."""
    left_out: Sequence[str] = ()
    """Why grants are left out."""


class PersonRestore:
    def __init__(self, database: Database, payloads: PayloadStore, max_items: int) -> None:
        self._database, self._payloads, self._max_items = database, payloads, max_items

    def held(self, principal: Principal, origin: str) -> CubeId | None:
        """The person's cube that was imported from this one, or is it."""
        with self._database.read() as session:
            found = _local(session, principal, origin)
        return CubeId(found) if found is not None else None

    def cube(
        self,
        principal: Principal,
        archived: ArchivedCube,
        files: Mapping[str, bytes],
        redactor: Redactor,
    ) -> Restored:
        """Store a cube of an archive for the principal's person, unless it is stored already.

        Args:
            files: checked files of adapters, by the digests that the archive names.
            redactor: of the tenant; what its policy keeps out is taken out of every version.
        Raises:
            Forbidden: the key is no admin's, or the tenant's policy does not allow the kind of memory.
            TooLarge, Unprocessable, QuotaExceeded: nothing of the cube is stored.
        """
        principal.require(Role.ADMIN)
        for _ in range(_TRIES):
            try:
                with self._database.write() as session:
                    fence.check(session, principal, principal.person)
                    known = _local(session, principal, archived.id)
                    if known is not None:
                        return Restored(CubeId(known), is_new=False)
                    return self._store(session, principal, archived, files, redactor)
            except IntegrityError:  # another import, or a chat that took the name, was faster
                continue
        raise Conflict("the person's memory changes all the time: import the file again")

    def link(self, principal: Principal, cube: CubeId) -> None:
        """Name the parents of a restored cube that were restored after it. Idempotent."""
        with self._database.write() as session:
            mine = (CubeRow.tenant == principal.tenant, CubeRow.person == principal.person)
            query = select(CubeRow).where(CubeRow.id == cube, *mine).with_for_update()
            row = session.scalar(query)
            if row is None:
                return
            stale = [_local(session, principal, each) or each for each in row.stale]
            of_cube = select(VersionRow).where(VersionRow.cube_id == row.id)
            for version in session.scalars(of_cube.order_by(VersionRow.sequence)).all():
                made_of = Provenance.model_validate(version.provenance)
                linked = _provenance(session, principal, made_of)
                if linked != made_of:
                    version.provenance = linked.model_dump(mode="json")
                    session.flush()
                    derived.record(session, principal, row, linked)
            row.stale = stale

    # -- inside -----------------------------------------------------------------------------------

    def _store(
        self,
        session: Session,
        principal: Principal,
        archived: ArchivedCube,
        files: Mapping[str, bytes],
        redactor: Redactor,
    ) -> Restored:
        changes.check_kind(session, principal.tenant, archived.kind)
        row = _row(principal, archived, redactor)
        taken = _make_room(session, row)
        session.add(row)
        session.flush()
        given, left_out = _grants(session, principal, archived.grants)
        grants.restore(session, principal, row, archived.access, given)
        items.touch_owner(session, row, cubes=1)
        for version in archived.versions:
            content = self._content(archived, version, files, redactor)
            clean = _redacted(version, redactor)
            self._add_version(session, principal, row, clean, content)
        items.sync_items(session, row, records.identify(CubeId(row.id), list(content.items)))
        row.stale = [
            _local(session, principal, each) or each for each in dict.fromkeys(archived.stale)
        ]
        row.updated_us = _past(to_us(archived.updated))
        session.flush()
        derived.check_readers(session, row)
        detail = {
            "person": principal.person,
            "versions": len(archived.versions),
            "items": len(content.items),
            "state": row.state,
        }
        audit.record(session, principal, "cube.import", row.id, detail)
        return Restored(CubeId(row.id), True, row.name if taken else None, left_out)

    def _content(
        self,
        archived: ArchivedCube,
        version: ArchivedVersion,
        files: Mapping[str, bytes],
        redactor: Redactor,
    ) -> Content:
        if archived.kind is Kind.PARAMETRIC:
            assert version.file is not None, "checked by ArchivedCube"
            return Content(
                Kind.PARAMETRIC, adapter=files[version.file], model=archived.model_fingerprint
            )
        found = archived.items_of(version)
        if len(found) > self._max_items:
            raise TooLarge(
                f"a version has {len(found)} items; a cube holds at most {self._max_items} "
                "(limits.items_per_cube)"
            )
        plain = [item.model_copy(update={"id": None}) for item in found]
        return Content(Kind.EXPLICIT, [redactor.item(item) for item in plain])

    def _add_version(
        self,
        session: Session,
        principal: Principal,
        row: CubeRow,
        archived: ArchivedVersion,
        content: Content,
    ) -> None:
        tenant, cube = TenantId(row.tenant), CubeId(row.id)
        data = content.file(cube)
        items.touch_owner(session, row, size=len(data))
        digest = self._payloads.put(tenant, cube, data)
        parent = VersionId(row.head_version) if row.head_version else None
        made_of = _provenance(session, principal, archived.provenance)
        created = _past(to_us(archived.created))
        header = archived.header.model_dump(mode="json") if archived.header else None
        version = VersionRow(
            id=version_id(cube, parent, digest, created),
            cube_id=cube,
            sequence=archived.sequence,
            parent=parent,
            author=archived.author,
            action=archived.action,
            created_us=created,
            provenance=made_of.model_dump(mode="json"),
            payload_sha256=digest,
            payload_bytes=len(data),
            header=header,
        )
        session.add(version)
        row.head_version, row.head_sequence = version.id, version.sequence
        session.flush()
        if made_of.parents:
            derived.record(session, principal, row, made_of)


def _row(principal: Principal, archived: ArchivedCube, redactor: Redactor) -> CubeRow:
    meta = redactor.cube(
        NewCube(
            meta=NewMeta(name=archived.name, tags=archived.tags),
            payload=ExplicitPayload(content=[]),
        )
    ).meta
    return CubeRow(
        id=new_cube_id(),
        origin_id=archived.id,
        tenant=principal.tenant,
        person=principal.person,
        name=meta.name,
        kind=archived.kind,
        model_fingerprint=archived.model_fingerprint,
        state=archived.state,
        placement=archived.placement,
        priority=archived.priority,
        tags=list(meta.tags),
        access={},
        head_version="",
        head_sequence=0,
        created_us=_past(to_us(archived.created)),
        updated_us=_past(to_us(archived.updated)),
        expires_us=to_us(archived.expires) if archived.expires is not None else None,
        reads=archived.reads,
        last_read_us=_past(to_us(archived.last_read)) if archived.last_read is not None else None,
    )


def _redacted(version: ArchivedVersion, redactor: Redactor) -> ArchivedVersion:
    """A version whose name, tags and provenance have nothing that the tenant's policy keeps out."""
    header = version.header
    meta = NewMeta(
        name=header.name if header else None,
        tags=header.tags if header else [],
        provenance=version.provenance,
    )
    clean = redactor.cube(NewCube(meta=meta, payload=ExplicitPayload(content=[]))).meta
    if header is not None:
        header = header.model_copy(update={"name": clean.name, "tags": clean.tags})
    return version.model_copy(update={"header": header, "provenance": clean.provenance})


def _past(moment_us: int) -> int:
    """A time of an archive, which is none of the future: later changes would stand behind it."""
    return min(moment_us, now_us())


def _local(session: Session, principal: Principal, origin: str) -> str | None:
    """Id of the person's cube that an archive calls so; the one that was imported goes before."""
    query = (
        select(CubeRow.id)
        .where(
            CubeRow.tenant == principal.tenant,
            CubeRow.person == principal.person,
            or_(CubeRow.origin_id == origin, CubeRow.id == origin),
        )
        .order_by(CubeRow.id == origin)
    )
    return session.scalars(query.limit(1)).first()


def _make_room(session: Session, row: CubeRow) -> bool:
    """Give a cube whose name its owner has already a free one; whether it was taken.

    A second profile becomes a part of the facts, where consolidation finds its claims; a part of a series
    gets a number that is free.
    """
    if row.name is None or not _is_taken(session, row, row.name):
        return False
    kind, persona = row.name.partition("~")[::2]
    if kind == _PROFILE and _PROFILE in row.tags:
        row.tags = [_FACTS if tag == _PROFILE else tag for tag in row.tags]
        row.placement = Placement.RETRIEVED
        row.name = f"{_FACTS}~{persona}#1" if persona else f"{_FACTS}#1"
    part, number = _PART.fullmatch(row.name), 1
    while _is_taken(session, row, row.name):
        number += 1
        if part is not None:
            row.name = f"{part['series']}#{int(part['number']) + number - 1}"
        else:
            mark = " (imported)" if number == 2 else f" (imported {number - 1})"
            base = row.name.partition(" (imported")[0]
            row.name = base[: _LONGEST_NAME - len(mark)] + mark
    return True


def _is_taken(session: Session, row: CubeRow, name: str) -> bool:
    query = select(CubeRow.id).where(
        CubeRow.tenant == row.tenant, CubeRow.person == row.person, CubeRow.name == name
    )
    return session.scalar(query.limit(1)) is not None


def _provenance(session: Session, principal: Principal, made_of: Provenance) -> Provenance:
    """Provenance that names cubes and versions of this vault, where it has them."""
    parents = [_local(session, principal, each) or each for each in made_of.parents]
    versions = [_version(session, principal, each) for each in made_of.parent_versions]
    return made_of.model_copy(update={"parents": parents, "parent_versions": versions})


def _version(session: Session, principal: Principal, named: str) -> str:
    try:
        parsed = CubeVersion.parse(named)
    except ValueError:
        return named
    cube = _local(session, principal, parsed.cube)
    query = select(VersionRow.id).where(
        VersionRow.cube_id == cube, VersionRow.sequence == parsed.sequence
    )
    return session.scalar(query) or named


def _grants(
    session: Session, principal: Principal, archived: Sequence[ArchivedGrant]
) -> tuple[list[Grant], list[str]]:
    """Grants of an archive, and why some are left out."""
    given, left_out = [], []
    for each in archived:
        kind = SubjectKind(each.kind)
        try:
            subject = each.subject
            if kind is SubjectKind.GROUP:
                subject = grants.find_group(session, principal, subject).id
            elif kind is SubjectKind.ROLE:
                subject = str(Role(subject))
            permissions = frozenset(Permission(name) for name in each.permissions)
        except NotFound:
            left_out.append(
                f"the tenant has no group {each.subject!r}: create it, then share again"
            )
            continue
        except ValueError:
            left_out.append(f"the role or a permission of {each.subject!r} does not exist here")
            continue
        expires = to_us(each.expires) if each.expires is not None else None
        made_by = PersonId(each.made_by) if each.made_by else None
        given.append(Grant(kind, subject, Effect(each.effect), permissions, expires, made_by))
    return given, left_out
