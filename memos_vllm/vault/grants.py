"""Grants on cubes: shares, denials, and the access list of older versions, which is made into grants.

A grant has one row for each subject and effect.  Changes lock the cube's row and are audited in their
transaction; the next query of every process sees them, since none is cached.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from memos_vllm.cube.ids import SHARED, PersonId, TenantId, new_id, now_us
from memos_vllm.cube.model import Access
from memos_vllm.errors import BadRequest, Conflict, Forbidden, NotFound
from memos_vllm.governance import permit
from memos_vllm.governance.permit import Effect, Grant, Permission, SubjectKind
from memos_vllm.governance.principal import Principal, Role, check_person, decoded
from memos_vllm.vault import audit, bundle_guard, derived, items, lookup
from memos_vllm.vault.database import Database
from memos_vllm.vault.tables import CubeRow, GrantRow, GroupMemberRow, GroupRow

MOST_GRANTS = 1000
"""On one cube: more subjects are a group."""
_GRANT, _ACCESS = "grant", "access"


@dataclasses.dataclass(frozen=True, slots=True)
class GrantRecord:
    grant: Grant
    group: str | None
    """Name of the group."""
    origin: str
    created_us: int


@dataclasses.dataclass(frozen=True, slots=True)
class Subject:
    """Subject as a caller names it: a group by name or id."""

    kind: SubjectKind
    name: str = ""


class Grants:
    def __init__(self, database: Database) -> None:
        self._database = database

    def on(self, principal: Principal, ref: str) -> tuple[str, list[GrantRecord]]:
        """Id of a cube, and its grants.

        Raises:
            NotFound
            Forbidden: the principal may neither share nor administer it.
        """
        with self._database.read() as session:
            row = lookup.find(session, principal, ref)
            held = lookup.held(session, principal, row)
            if not held & {Permission.SHARE, Permission.ADMINISTER}:
                raise Forbidden("the grants on a cube are shown to who may share or administer it")
            return row.id, _records(session, row)

    def put(
        self,
        principal: Principal,
        ref: str,
        subject: Subject,
        effect: Effect,
        permissions: Sequence[Permission],
        expires_us: int | None = None,
    ) -> tuple[str, list[GrantRecord]]:
        """Set the one grant of this subject and effect on a cube.

        Raises:
            NotFound: the cube or the group is absent.
            Forbidden
            Conflict: the cube belongs to a bundle, which has readers of its own.
            Unprocessable: the cube is derived from one that the subject may not read.
        """
        wanted = permit.with_implied(effect, permissions)
        if expires_us is not None and expires_us <= now_us():
            raise BadRequest("`expires` lies in the past", param="expires")
        try:
            with self._database.write() as session:
                row = lookup.find(session, principal, ref, lock=True)
                name = _subject_id(session, principal, subject)
                maker = _maker(session, principal, row)
                new = Grant(subject.kind, name, effect, wanted, expires_us, maker)
                _check_set(session, principal, row, new)
                bundle_guard.check_free(session, principal, row)
                _put(session, row, new)
                _settle(session, principal, row)
                derived.check_readers(session, row)
                detail = {"effect": effect, "permissions": sorted(wanted), "expires_us": expires_us}
                _record(session, principal, "grant.set", row, new, detail)
                return row.id, _records(session, row)
        except IntegrityError as error:
            raise Conflict("the group was deleted meanwhile", param="group") from error

    def remove(
        self, principal: Principal, ref: str, subject: Subject, effect: Effect | None = None
    ) -> tuple[str, list[GrantRecord]]:
        """Remove the grants of a subject from a cube.

        Args:
            effect: None: both.
        Raises:
            NotFound: the cube, the group or such a grant is absent.
            Forbidden
        """
        with self._database.write() as session:
            row = lookup.find(session, principal, ref, lock=True)
            name = _subject_id(session, principal, subject)
            found = session.scalars(
                select(GrantRow).where(
                    GrantRow.cube_id == row.id,
                    GrantRow.origin == _GRANT,
                    GrantRow.kind == subject.kind,
                    GrantRow.subject == name,
                    *([GrantRow.effect == effect] if effect is not None else []),
                )
            ).all()
            _check_remove(session, principal, row, found)
            if not found:
                raise NotFound(
                    "the cube has no such grant (its access list is changed by PATCH)",
                    param="grant",
                )
            for each in found:
                session.delete(each)
            session.flush()
            _settle(session, principal, row)
            gone = lookup.grant_of(found[0])
            effects = sorted(each.effect for each in found)
            _record(session, principal, "grant.remove", row, gone, {"effects": effects})
            return row.id, _records(session, row)

    def check(self, principal: Principal, ref: str, wanted: Permission) -> None:
        """Raises NotFound; Forbidden: the principal lacks the permission."""
        with self._database.read() as session:
            row = lookup.find(session, principal, ref)
            lookup.check(session, principal, row, wanted)

    def audience(self, principal: Principal, ref: str) -> frozenset[Grant]:
        """Grants on a cube that the principal may read, to compare two cubes. Raises NotFound."""
        with self._database.read() as session:
            return frozenset(lookup.grants_on(session, lookup.find(session, principal, ref).id))


def set_access(session: Session, principal: Principal, row: CubeRow, access: Access) -> None:
    """Set a cube's access list, and the grants that it stands for."""
    readers = access.readers
    if readers is not None:
        readers = list(dict.fromkeys(map(decoded, readers)))
    row.access = {**access.model_dump(mode="json"), "readers": readers}
    session.flush()
    _settle(session, principal, row)


def restore(
    session: Session, principal: Principal, row: CubeRow, access: Access, given: Sequence[Grant]
) -> None:
    """Set the access list and the grants of an imported cube. Grants whose maker may not share it lapse."""
    set_access(session, principal, row, access)
    for grant in given:
        _put(session, row, grant)
    if given:
        _settle(session, principal, row)


def forget_person(session: Session, tenant: TenantId, person: PersonId) -> int:
    """Remove a person from all grants and groups of a tenant, and the grants that the person made on cubes
    of others; returns the number of rows. For the deletion of a person."""
    by = Principal(tenant, Role.ADMIN, "erasure")
    of_person = (GrantRow.kind == SubjectKind.PERSON) & (GrantRow.subject == person)
    query = select(GrantRow).where(
        GrantRow.tenant == tenant, of_person | (GrantRow.made_by == person)
    )
    gone = session.scalars(query).all()
    cubes = {grant.cube_id for grant in gone}
    for grant in gone:
        session.delete(grant)
    members = session.execute(
        delete(GroupMemberRow).where(
            GroupMemberRow.tenant == tenant, GroupMemberRow.person == person
        )
    )
    session.flush()
    settle_all(session, by, cubes)
    count: int = members.rowcount  # type: ignore[attr-defined]  # CursorResult, for a DELETE
    return len(gone) + count


def settle_all(session: Session, principal: Principal, cubes: Sequence[str] | set[str]) -> None:
    """Bring what follows from grants up to date, after grants or members of groups were removed."""
    for cube in sorted(cubes):
        row = session.get(CubeRow, cube, with_for_update=True)
        if row is not None:
            _settle(session, principal, row)


def _settle(session: Session, principal: Principal, row: CubeRow) -> None:
    """What follows from the grants of a cube: grants whose maker may not share any more, the grants of the
    access list, whether the cube is open, and the readers of derived cubes.

    Its stored KV is wiped: some of it may be the whole tenant's, or a person's who had a grant.
    """
    while lapsed := _lapsed(session, row):
        session.execute(delete(GrantRow).where(GrantRow.id.in_(lapsed)))
        audit.record(session, principal, "grant.lapse", row.id, {"grants": len(lapsed)})
    session.execute(delete(GrantRow).where(GrantRow.cube_id == row.id, GrantRow.origin == _ACCESS))
    if row.person == SHARED:
        access = Access.model_validate(row.access)
        denies = select(GrantRow.id).where(
            GrantRow.cube_id == row.id, GrantRow.effect == Effect.DENY
        )
        has_denials = session.scalar(denies.limit(1)) is not None
        is_open = access.readers is None and not has_denials
        if row.head_version and is_open != row.is_open:
            items.touch_owner(session, row)  # it enters or leaves the index of open cubes
        row.is_open = is_open
        for grant in permit.of_access(access.readers, access.writers, has_denials):
            _put(session, row, grant, _ACCESS)
    session.flush()
    if row.head_version:
        items.content_changed(session, row)
    if narrowed := derived.narrow(session, row):
        audit.record(session, principal, "cube.narrow", row.id, {"cubes": narrowed})


def _lapsed(session: Session, row: CubeRow) -> list[str]:
    """Ids of grants whose maker may not give them any more."""
    shared = session.scalars(
        select(GrantRow).where(GrantRow.cube_id == row.id, GrantRow.made_by.is_not(None))
    ).all()
    found = []
    for each in shared:
        maker = Principal(TenantId(row.tenant), Role.WRITER, "", PersonId(each.made_by or ""))
        grant, held = lookup.grant_of(each), lookup.held(session, maker, row)
        if not permit.may_give(held, grant) or permit.outlives(grant, _until(session, maker, row)):
            found.append(each.id)
    return found


def _until(session: Session, principal: Principal, row: CubeRow) -> int | None:
    """When what the principal may do with a cube ends, at the latest."""
    grants = lookup.grants_on(session, row.id)
    return permit.held_until(principal, grants, lookup.groups_of(session, principal), now_us())


def _put(session: Session, row: CubeRow, grant: Grant, origin: str = _GRANT) -> None:
    found = session.scalar(
        select(GrantRow).where(
            GrantRow.cube_id == row.id,
            GrantRow.kind == grant.kind,
            GrantRow.subject == grant.subject,
            GrantRow.effect == grant.effect,
            GrantRow.origin == origin,
        )
    )
    if found is None:
        found = GrantRow(
            id=new_id("grant"),
            cube_id=row.id,
            tenant=row.tenant,
            kind=grant.kind,
            subject=grant.subject,
            group_id=grant.subject if grant.kind is SubjectKind.GROUP else None,
            effect=grant.effect,
            origin=origin,
            created_us=now_us(),
        )
        session.add(found)
    found.permissions = sum(permit.BITS[each] for each in grant.permissions)
    found.expires_us, found.made_by = grant.expires_us, grant.made_by
    session.flush()


def _check_set(session: Session, principal: Principal, row: CubeRow, new: Grant) -> None:
    grants = lookup.grants_on(session, row.id)
    held = lookup.held(session, principal, row)
    until = _until(session, principal, row)
    permit.check_grant(principal, PersonId(row.person), new, held, until)
    of_subject = [
        each
        for each in grants
        if (each.kind, each.subject, each.effect) == (new.kind, new.subject, new.effect)
    ]
    if Permission.ADMINISTER not in held:
        _check_made_by(principal, of_subject)
    if not of_subject and len(grants) >= MOST_GRANTS:
        raise Conflict(f"a cube has at most {MOST_GRANTS} grants: grant to a group", param="grants")
    if new.kind is SubjectKind.PERSON and new.subject == row.person:
        raise BadRequest("the owner has every permission already", param="person")


def _check_remove(
    session: Session, principal: Principal, row: CubeRow, found: Sequence[GrantRow]
) -> None:
    held = lookup.held(session, principal, row)
    if Permission.ADMINISTER in held:
        principal.require(Role.WRITER)
        return
    permit.check(principal, Permission.SHARE, PersonId(row.person), held)
    _check_made_by(principal, [lookup.grant_of(each) for each in found])


def _check_made_by(principal: Principal, grants: Sequence[Grant]) -> None:
    if any(each.made_by != principal.person for each in grants):
        raise Forbidden("this grant is another's: changing it needs the permission `administer`")


def _maker(session: Session, principal: Principal, row: CubeRow) -> str | None:
    """The person whose right to share a grant rests on; None: the owner's, or an admin's."""
    if principal.can(Role.ADMIN) or permit.is_own(principal, row.tenant, row.person):
        return None
    return principal.person


def _subject_id(session: Session, principal: Principal, subject: Subject) -> str:
    """Raises BadRequest; NotFound: there is no such group."""
    if subject.kind is SubjectKind.TENANT:
        return ""
    if subject.kind is SubjectKind.ROLE:
        return str(Role(subject.name))
    if subject.kind is SubjectKind.PERSON:
        return check_person(subject.name)
    return find_group(session, principal, subject.name).id


def find_group(session: Session, principal: Principal, ref: str) -> GroupRow:
    """A group of the tenant by name or id. Raises NotFound."""
    query = select(GroupRow).where(
        GroupRow.tenant == principal.tenant, (GroupRow.name == ref) | (GroupRow.id == ref)
    )
    rows = session.scalars(query).all()
    named = [row for row in rows if row.name == ref]
    if not rows:
        raise NotFound(f"there is no group {ref!r} here", param="group")
    return (named or rows)[0]


def _records(session: Session, row: CubeRow) -> list[GrantRecord]:
    query = (
        select(GrantRow, GroupRow.name)
        .outerjoin(GroupRow, GroupRow.id == GrantRow.group_id)
        .where(GrantRow.cube_id == row.id)
        .order_by(GrantRow.created_us, GrantRow.id)
    )
    return [
        GrantRecord(lookup.grant_of(grant), group, grant.origin, grant.created_us)
        for grant, group in session.execute(query)
    ]


def _record(
    session: Session,
    principal: Principal,
    action: str,
    row: CubeRow,
    grant: Grant,
    detail: dict[str, Any],
) -> None:
    """Audit a change; a person stands in the log under a pseudonym."""
    subject = grant.subject
    if grant.kind is SubjectKind.PERSON:
        subject = audit.pseudonym(session, row.tenant, grant.subject)
    about = {"person": row.person, "kind": grant.kind, "subject": subject}
    audit.record(session, principal, action, row.id, detail | about)
