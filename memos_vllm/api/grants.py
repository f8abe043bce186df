"""`/v1/memory/cubes/{ref}/grants` and `/v1/memory/groups`: sharing, denials, groups of people."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Body, Path, Query
from pydantic import ConfigDict, Field

from memos_vllm.api.models import ERRORS, Caller, Ref, System, Word
from memos_vllm.api.models import Body as Strict
from memos_vllm.api.strict import StrictRoute
from memos_vllm.cube.ids import CubeId, now_us, to_datetime, to_us
from memos_vllm.cube.model import Label, Name
from memos_vllm.cube.moments import Moment
from memos_vllm.errors import BadRequest
from memos_vllm.governance.permit import Effect, Permission, SubjectKind
from memos_vllm.governance.principal import MAX_NAME_LENGTH, Role
from memos_vllm.vault.grants import GrantRecord, Subject
from memos_vllm.vault.groups import Group

router = APIRouter(route_class=StrictRoute, prefix="/v1/memory", tags=["grants"], responses=ERRORS)

GroupRef = Annotated[
    str, Path(description="name or id of a group", max_length=200, pattern=r"^[^\x00]+$")
]
Member = Annotated[
    str,
    Path(description="person of the tenant", max_length=MAX_NAME_LENGTH, pattern=r"^[^\x00]+$"),
]
_TEN_YEARS = 10 * 365 * 86400


class NewGrant(Strict):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"person": "carol", "permissions": ["read", "use"]}]},
    )
    person: Label | None = Field(None, description="exactly one subject is given")
    group: Label | None = Field(None, description="name or id of a group")
    role: Role | None = Field(None, description="everyone whose key has this role")
    tenant: bool = Field(False, description="everyone in the tenant")
    effect: Effect = Field(Effect.ALLOW, description="a denial wins over what others allow")
    permissions: list[Permission] = Field(min_length=1, max_length=16)
    expires: Moment | None = None
    ttl_seconds: int | None = Field(None, ge=1, le=_TEN_YEARS)

    def ends_us(self) -> int | None:
        """Raises BadRequest: both forms of an end are given."""
        if self.expires is not None and self.ttl_seconds is not None:
            raise BadRequest("give `expires` or `ttl_seconds`, not both", param="ttl_seconds")
        if self.expires is not None:
            return to_us(self.expires)
        return now_us() + self.ttl_seconds * 1_000_000 if self.ttl_seconds else None


class GrantView(Strict):
    person: str | None = None
    group: str | None = Field(None, description="name of the group")
    role: str | None = None
    tenant: bool = False
    effect: Effect
    permissions: list[Permission]
    expires: datetime | None
    shared_by: str | None = Field(
        description="person who passed it on; null: the owner or an admin"
    )
    origin: str = Field(description="`grant`, or `access`: from the access list of the cube")
    created: datetime


class GrantList(Strict):
    cube: str
    grants: list[GrantView]


class NewGroup(Strict):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"name": "crew"}]})
    name: Name


class GroupView(Strict):
    id: str
    name: str
    members: int
    created: datetime


class GroupList(Strict):
    groups: list[GroupView]


class GroupDetail(GroupView):
    people: list[str]


@router.get("/cubes/{ref}/grants")
def list_grants(system: System, caller: Caller, ref: Ref) -> GrantList:
    """Grants on a cube, for those who may share or administer it."""
    return _list(system.grants.on(caller, ref))


@router.put("/cubes/{ref}/grants")
def set_grant(
    system: System, caller: Caller, ref: Ref, grant: Annotated[NewGrant, Body()]
) -> GrantList:
    """Set the grant of one subject and effect; the next request of the subject sees it."""
    subject = subject_of(grant.person, grant.group, grant.role, grant.tenant)
    changed = system.grants.put(
        caller, ref, subject, grant.effect, grant.permissions, grant.ends_us()
    )
    system.settle([CubeId(changed[0])])
    return _list(changed)


@router.delete("/cubes/{ref}/grants")
def remove_grants(
    system: System,
    caller: Caller,
    ref: Ref,
    person: Word = None,
    group: Word = None,
    role: Annotated[Role | None, Query()] = None,
    tenant: bool = False,
    effect: Annotated[Effect | None, Query(description="default: both")] = None,
) -> GrantList:
    """Remove the grants of one subject from a cube."""
    subject = subject_of(person, group, role, tenant)
    changed = system.grants.remove(caller, ref, subject, effect)
    system.settle([CubeId(changed[0])])
    return _list(changed)


@router.get("/groups")
def list_groups(system: System, caller: Caller) -> GroupList:
    """Your person's groups; with an `admin` key and no person, the tenant's."""
    return GroupList(groups=[_group(each) for each in system.groups.all(caller)])


@router.post("/groups", status_code=201)
def create_group(system: System, caller: Caller, group: Annotated[NewGroup, Body()]) -> GroupView:
    """Create a group of people. Needs an `admin` key."""
    return _group(system.groups.create(caller, group.name))


@router.get("/groups/{group}")
def get_group(system: System, caller: Caller, group: GroupRef) -> GroupDetail:
    """A group with its people, for admins and for its members."""
    found, people = system.groups.get(caller, group)
    return GroupDetail(**_group(found).model_dump(), people=people)


@router.delete("/groups/{group}")
def delete_group(system: System, caller: Caller, group: GroupRef) -> GroupView:
    """Delete a group with its grants. Needs an `admin` key."""
    return _group(system.groups.delete(caller, group))


@router.put("/groups/{group}/members/{person:path}")
def add_member(system: System, caller: Caller, group: GroupRef, person: Member) -> GroupView:
    """Add a person to a group. Needs an `admin` key."""
    return _group(system.groups.add(caller, group, person))


@router.delete("/groups/{group}/members/{person:path}")
def remove_member(system: System, caller: Caller, group: GroupRef, person: Member) -> GroupView:
    """Remove a person from a group; what the group gave ends at once. Needs an `admin` key."""
    return _group(system.groups.remove(caller, group, person))


def subject_of(person: str | None, group: str | None, role: Role | None, tenant: bool) -> Subject:
    """The one subject that is given. Raises BadRequest: none, or several."""
    given = [
        (SubjectKind.PERSON, person),
        (SubjectKind.GROUP, group),
        (SubjectKind.ROLE, role),
        (SubjectKind.TENANT, "" if tenant else None),
    ]
    named = [Subject(kind, str(name)) for kind, name in given if name is not None]
    if len(named) != 1:
        raise BadRequest("give one of `person`, `group`, `role`, `tenant`", param="person")
    return named[0]


def _list(found: tuple[str, list[GrantRecord]]) -> GrantList:
    cube, records = found
    return GrantList(cube=cube, grants=[view_of(each) for each in records])


def view_of(record: GrantRecord) -> GrantView:
    grant, kind = record.grant, record.grant.kind
    return GrantView(
        person=grant.subject if kind is SubjectKind.PERSON else None,
        group=record.group if kind is SubjectKind.GROUP else None,
        role=grant.subject if kind is SubjectKind.ROLE else None,
        tenant=kind is SubjectKind.TENANT,
        effect=grant.effect,
        permissions=[each for each in Permission if each in grant.permissions],
        expires=to_datetime(grant.expires_us) if grant.expires_us is not None else None,
        shared_by=grant.made_by,
        origin=record.origin,
        created=to_datetime(record.created_us),
    )


def _group(group: Group) -> GroupView:
    return GroupView(
        id=group.id, name=group.name, members=group.members, created=to_datetime(group.created_us)
    )
