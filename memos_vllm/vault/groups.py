"""Groups of a tenant's people, as subjects of grants."""

from __future__ import annotations

import dataclasses

from sqlalchemy import Select, delete, func, select, union
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from memos_vllm.cube.ids import new_id, now_us
from memos_vllm.errors import Conflict, NotFound
from memos_vllm.governance.permit import BITS, Effect, Permission
from memos_vllm.governance.principal import Principal, Role, check_person
from memos_vllm.vault import audit
from memos_vllm.vault.database import Database
from memos_vllm.vault.grants import find_group, settle_all
from memos_vllm.vault.tables import DerivedRow, GrantRow, GroupMemberRow, GroupRow


@dataclasses.dataclass(frozen=True, slots=True)
class Group:
    id: str
    name: str
    members: int
    created_us: int


class Groups:
    """Admins change them; a person sees those that it is in."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, principal: Principal, name: str) -> Group:
        """Raises Forbidden; Conflict: the tenant has a group of that name."""
        principal.require(Role.ADMIN)
        row = GroupRow(id=new_id("group"), tenant=principal.tenant, name=name, created_us=now_us())
        try:
            with self._database.write() as session:
                session.add(row)
                audit.record(session, principal, "group.create", row.id, {})
        except IntegrityError as error:
            raise Conflict(f"there is a group {name!r} already", param="name") from error
        return Group(row.id, row.name, 0, row.created_us)

    def all(self, principal: Principal) -> list[Group]:
        """Groups of the person; for an admin without a person, the tenant's. By name."""
        query = (
            select(GroupRow, func.count(GroupMemberRow.person))
            .outerjoin(GroupMemberRow, GroupMemberRow.group_id == GroupRow.id)
            .where(GroupRow.tenant == principal.tenant)
            .group_by(GroupRow.id)
            .order_by(GroupRow.name)
        )
        if not principal.can(Role.ADMIN) or principal.person:
            query = query.where(GroupRow.id.in_(_of_person(principal)))
        with self._database.read() as session:
            return [_group(row, count) for row, count in session.execute(query)]

    def get(self, principal: Principal, ref: str) -> tuple[Group, list[str]]:
        """A group with its members, by name.

        Raises:
            NotFound: absent, or the caller is neither an admin nor a member.
        """
        with self._database.read() as session:
            row = find_group(session, principal, ref)
            members = list(
                session.scalars(
                    select(GroupMemberRow.person)
                    .where(GroupMemberRow.group_id == row.id)
                    .order_by(GroupMemberRow.person)
                )
            )
        if not principal.can(Role.ADMIN) and principal.person not in members:
            raise NotFound(f"there is no group {ref!r} here", param="group")
        return _group(row, len(members)), members

    def delete(self, principal: Principal, ref: str) -> Group:
        """Delete a group with its members and its grants. Raises Forbidden, NotFound."""
        principal.require(Role.ADMIN)
        with self._database.write() as session:
            row = _locked(session, principal, ref)
            cubes = _affected(session, row, removed=True)
            count = _size(session, row)
            session.execute(delete(GrantRow).where(GrantRow.group_id == row.id))
            session.execute(delete(GroupMemberRow).where(GroupMemberRow.group_id == row.id))
            session.delete(row)
            session.flush()
            settle_all(session, principal, cubes)
            detail = {"members": count, "cubes": sorted(cubes)}
            audit.record(session, principal, "group.delete", row.id, detail)
            return _group(row, 0)

    def add(self, principal: Principal, ref: str, person: str) -> Group:
        """Add a person; one who is in it stays. Raises Forbidden, NotFound, BadRequest."""
        principal.require(Role.ADMIN)
        person = check_person(person)
        with self._database.write() as session:
            row = _locked(session, principal, ref)
            if session.get(GroupMemberRow, (row.id, person)) is None:
                session.add(GroupMemberRow(group_id=row.id, person=person, tenant=row.tenant))
                session.flush()
                settle_all(session, principal, _affected(session, row, removed=False))
                detail = {"member": audit.pseudonym(session, row.tenant, person)}
                audit.record(session, principal, "group.add", row.id, detail)
            return _group(row, _size(session, row))

    def remove(self, principal: Principal, ref: str, person: str) -> Group:
        """Remove a person. Raises Forbidden, BadRequest; NotFound: no such group or member."""
        principal.require(Role.ADMIN)
        person = check_person(person)
        with self._database.write() as session:
            row = _locked(session, principal, ref)
            member = session.get(GroupMemberRow, (row.id, person))
            if member is None:
                raise NotFound(f"the group has no member {person!r}", param="person")
            session.delete(member)
            session.flush()
            settle_all(session, principal, _affected(session, row, removed=True))
            detail = {"member": audit.pseudonym(session, row.tenant, person)}
            audit.record(session, principal, "group.remove", row.id, detail)
            return _group(row, _size(session, row))


def _locked(session: Session, principal: Principal, ref: str) -> GroupRow:
    """The group's row, locked against other changes of its members; new grants may refer to it."""
    row = find_group(session, principal, ref)
    session.refresh(row, with_for_update={"key_share": True})
    return row


def _of_person(principal: Principal) -> Select[str]:
    return select(GroupMemberRow.group_id).where(
        GroupMemberRow.tenant == principal.tenant, GroupMemberRow.person == principal.person
    )


def _affected(session: Session, row: GroupRow, removed: bool) -> set[str]:
    """Cubes where more follows from a change of the members than the query of the rule sees: grants that a
    member has passed on, memory that a member has derived, and denials of the group."""
    of_group = select(GrantRow.cube_id).where(GrantRow.group_id == row.id)
    denials = of_group.where(GrantRow.effect == Effect.DENY)
    if not removed:
        return set(session.scalars(denials))
    passing = BITS[Permission.SHARE] | BITS[Permission.ADMINISTER]
    passed_on = of_group.where(GrantRow.permissions.op("&")(passing) != 0)
    sources = of_group.where(GrantRow.cube_id.in_(select(DerivedRow.source_id)))
    return set(session.scalars(union(denials, passed_on, sources)))


def _size(session: Session, row: GroupRow) -> int:
    query = select(func.count()).where(GroupMemberRow.group_id == row.id)
    return session.scalar(query) or 0


def _group(row: GroupRow, members: int) -> Group:
    return Group(row.id, row.name, members, row.created_us)
