"""Permissions of a principal on a cube. Pure functions; the vault applies them.

A cube belongs to a person of a tenant, or to the tenant.  Another tenant's cube does not exist; a cube
that the principal may not read does not exist either.  In this order:

1. The owner has every permission; a tenant's cube has no owner among its persons.
2. An open cube (the tenant's, without a list of readers and without a `deny`) is read and used by all.
3. Grants on the cube that name the principal (as a person, by a group, a role, or the tenant) and have not
   expired: what one denies is denied, whatever others allow.
4. An admin key has every permission but `use`: prompts follow their person.

`vault/records.py: visible_to` states the same in SQL; `tests/unit/test_acl_machine.py` compares the two.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from enum import StrEnum

from memos_vllm.cube.ids import SHARED, PersonId, TenantId
from memos_vllm.errors import BadRequest, Forbidden
from memos_vllm.governance.principal import MAX_NAME_LENGTH, Principal, Role


class Permission(StrEnum):
    READ = "read"
    """See the current version, and search it."""
    USE = "use"
    """Have it in prompts."""
    WRITE = "write"
    """Change its items, name, tags, priority and placement."""
    SHARE = "share"
    """Allow others what one has oneself, of `read`, `use` and `write`."""
    ADMINISTER = "administer"
    """Change its grants, access list, state and expiry, and delete it."""


class SubjectKind(StrEnum):
    PERSON = "person"
    GROUP = "group"
    ROLE = "role"
    TENANT = "tenant"


class Effect(StrEnum):
    ALLOW = "allow"
    DENY = "deny"


Permissions = frozenset[Permission]
ALL: Permissions = frozenset(Permission)
OPEN: Permissions = frozenset({Permission.READ, Permission.USE})
"""What an open cube gives to everyone in the tenant."""
PROMPT = (Permission.USE,)
SEARCH = (Permission.USE, Permission.READ)
"""A search shows its results: a cube that prompts may hold and its person may not read is left out."""
SHARED_ON: Permissions = frozenset({Permission.READ, Permission.USE, Permission.WRITE})
"""What `share` can pass on."""
_CHANGES = ALL - OPEN
BITS: Mapping[Permission, int] = {each: 1 << n for n, each in enumerate(Permission)}


@dataclasses.dataclass(frozen=True, slots=True)
class Grant:
    kind: SubjectKind
    subject: str
    """Name of a person or a role, id of a group; empty: the tenant."""
    effect: Effect
    permissions: Permissions
    expires_us: int | None = None
    made_by: str | None = None
    """Person who shared it; None: the owner or an admin."""

    def names(self, principal: Principal, groups: Collection[str]) -> bool:
        """Whether it is about this principal.

        Args:
            groups: ids of the person's groups.
        """
        match self.kind:
            case SubjectKind.TENANT:
                return True
            case SubjectKind.ROLE:
                # A person's token has a role by its scopes: fewer scopes must not escape a denial.
                is_token_denied = bool(principal.token_id) and self.effect is Effect.DENY
                return is_token_denied or self.subject == principal.role
            case SubjectKind.GROUP:
                return self.subject in groups
            case SubjectKind.PERSON:
                return bool(principal.person) and self.subject == principal.person

    def counts(self, principal: Principal, groups: Collection[str], at_us: int) -> bool:
        is_over = self.expires_us is not None and self.expires_us <= at_us
        return not is_over and self.names(principal, groups)


def is_own(principal: Principal, tenant: str, person: str) -> bool:
    return bool(person) and (tenant, person) == (principal.tenant, principal.person)


def permitted(
    principal: Principal,
    tenant: TenantId,
    person: PersonId,
    is_open: bool,
    grants: Iterable[Grant],
    groups: Collection[str],
    at_us: int,
) -> Permissions:
    """What a principal may do with a cube, roles and scopes of its key aside.

    Args:
        tenant: owner of the cube.
        person: owner inside the tenant; SHARED: the tenant.
        is_open: whether everyone in the tenant may read and use it.
        groups: ids of the groups of the principal's person.
    """
    if not principal.tenant or tenant != principal.tenant:
        return frozenset()
    if is_own(principal, tenant, person):
        return ALL
    counted = [grant for grant in grants if grant.counts(principal, groups, at_us)]
    allowed = set(OPEN) if is_open else set()
    denied: set[Permission] = set()
    for grant in counted:
        if grant.effect is Effect.DENY:
            denied |= grant.permissions
        elif principal.token_id and grant.kind in (SubjectKind.TENANT, SubjectKind.ROLE):
            # A browser changes what its person or their groups may change, not what any key may.
            allowed |= grant.permissions - _CHANGES
        else:
            allowed |= grant.permissions
    held = frozenset(allowed - denied)
    return held | (ALL - {Permission.USE}) if principal.can(Role.ADMIN) else held


def of_access(readers: Iterable[str] | None, writers: str, has_denials: bool) -> list[Grant]:
    """Grants that an access list stands for; none for the readers of an open cube.

    Args:
        readers: persons; None: everyone in the tenant.
        has_denials: whether a grant denies something.
    """
    found = []
    if readers is not None:
        # A longer name is no person's.
        for reader in dict.fromkeys(name for name in readers if len(name) <= MAX_NAME_LENGTH):
            found.append(Grant(SubjectKind.PERSON, reader, Effect.ALLOW, OPEN))
    allowed = OPEN if readers is None and has_denials else frozenset()
    if writers == "tenant":
        allowed |= {Permission.WRITE}
    if allowed:
        found.append(Grant(SubjectKind.TENANT, "", Effect.ALLOW, allowed))
    return found


def with_implied(effect: Effect, permissions: Iterable[Permission]) -> Permissions:
    """Permissions with those that they need: who writes, shares or administers also reads; who may not
    read may not do these either. Raises BadRequest: none are given."""
    found = frozenset(permissions)
    if not found:
        raise BadRequest("name at least one permission", param="permissions")
    if effect is Effect.DENY:
        return found | _CHANGES if Permission.READ in found else found
    if Permission.ADMINISTER in found:
        found |= {Permission.WRITE, Permission.SHARE}
    return found | {Permission.READ} if found & _CHANGES else found


def check_create(principal: Principal, person: PersonId) -> None:
    """Check that the principal may create a cube of this owner.

    The access list of the new cube has no say: its author wrote it.  Raises Forbidden.
    """
    own = ALL if is_own(principal, principal.tenant, person) else frozenset()
    held = ALL if principal.can(Role.ADMIN) else own
    check(principal, Permission.WRITE, person, held)


def check(principal: Principal, wanted: Permission, person: PersonId, held: Permissions) -> None:
    """Check that the principal may change a cube.

    Args:
        person: owner of the cube.
        held: from `permitted`, by the grants as stored, never from the request.
    Raises:
        Forbidden: it may not; the message names the key or the header that it needs.
    """
    principal.require(Role.WRITER)
    if wanted in held:
        return
    if wanted is not Permission.WRITE:
        raise Forbidden(
            f"this needs the permission `{wanted}` on the cube: its owner has it, and a key with the role "
            "`admin`; others need a grant"
            + (" (changing the access list of shared memory, too)" if person == SHARED else "")
        )
    if person == SHARED and principal.token_id:
        raise Forbidden("writing the tenant's shared memory needs a key: this is a person's token")
    if person == SHARED:
        raise Forbidden(
            "writing the tenant's shared memory needs a key with the role `admin`; to write a "
            "person's memory, name the person (X-Memos-User)"
        )
    raise Forbidden(
        "writing another person's memory needs a grant of `write`, or a key with the role `admin`"
    )


def check_history(principal: Principal, tenant: str, person: str) -> None:
    """Check that the principal may read older versions of a cube that it may read.

    Sharing shows what a cube holds, not what its owner has removed.  Raises Forbidden.
    """
    if person != SHARED and not is_own(principal, tenant, person):
        if principal.can(Role.ADMIN):
            return
        raise Forbidden("older versions of a shared cube are its owner's: read the current one")


def check_grant(
    principal: Principal, person: PersonId, new: Grant, held: Permissions, until_us: int | None
) -> None:
    """Check that the principal may set a grant.

    Args:
        person: owner of the cube.
        held: permissions of the principal on the cube.
        until_us: end of the grants that give them to it; None: no end.
    Raises:
        Forbidden
    """
    if Permission.ADMINISTER in held:
        principal.require(Role.WRITER)
    else:
        check(principal, Permission.SHARE, person, held)
        _check_passed_on(new, held)
    if new.made_by is not None and outlives(new, until_us):
        raise Forbidden(
            "your own permission ends earlier: set `expires` to that time at the latest"
        )


def may_give(maker: Permissions, grant: Grant) -> bool:
    """Whether a person with these permissions could make a grant now."""
    if Permission.ADMINISTER in maker:
        return True
    passed_on = grant.permissions <= maker & SHARED_ON
    return Permission.SHARE in maker and passed_on and grant.effect is Effect.ALLOW


def outlives(grant: Grant, until_us: int | None) -> bool:
    """Whether a grant ends later than the permission to make it."""
    return until_us is not None and (grant.expires_us is None or grant.expires_us > until_us)


def _check_passed_on(new: Grant, held: Permissions) -> None:
    if new.effect is Effect.DENY or not new.permissions <= SHARED_ON:
        raise Forbidden(
            "`share` passes on `read`, `use` and `write`; to deny, or to give `share` and `administer`, "
            "takes `administer`"
        )
    if not new.permissions <= held:
        missing = ", ".join(sorted(new.permissions - held))
        raise Forbidden(f"you cannot share what you may not do yourself: {missing}")


def held_until(
    principal: Principal, grants: Iterable[Grant], groups: Collection[str], at_us: int
) -> int | None:
    """The time at which the first of the grants ends that allow something to the principal; None: none
    of them ends."""
    ends = [
        grant.expires_us
        for grant in grants
        if grant.effect is Effect.ALLOW
        and grant.counts(principal, groups, at_us)
        and grant.expires_us is not None
    ]
    return min(ends, default=None)
