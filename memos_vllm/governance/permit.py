"""Permissions of a principal on a cube. Pure functions; the vault applies them.

A cube belongs to a person of a tenant, or to the tenant.  Another tenant's cube does not exist;
another person's cube does not exist either, except for an admin of the tenant.
"""

from __future__ import annotations

from collections.abc import Sequence

from memos_vllm.cube.ids import SHARED, PersonId, TenantId
from memos_vllm.errors import Forbidden
from memos_vllm.governance.principal import Principal, Role


def may_read(
    principal: Principal, tenant: TenantId, person: PersonId, readers: Sequence[str] | None
) -> bool:
    """Whether a principal may read a cube.

    Args:
        tenant: owner of the cube.
        person: owner inside the tenant; SHARED: the tenant.
        readers: access list of a shared cube; None: every person of the tenant.
    """
    if tenant != principal.tenant:
        return False
    if principal.can(Role.ADMIN):
        return True
    if person != SHARED:
        return person == principal.person
    return readers is None or principal.person in readers


def may_inject(
    principal: Principal, tenant: TenantId, person: PersonId, readers: Sequence[str] | None
) -> bool:
    """Whether a cube may be placed in this principal's prompt.

    Stricter than `may_read`: in an admin's prompt for one person stands only what that person may
    read.
    """
    if tenant != principal.tenant:
        return False
    if person != SHARED:
        return person == principal.person
    return readers is None or principal.person in readers


def check_create(principal: Principal, person: PersonId) -> None:
    """Check that the principal may create a cube of this owner.

    The access list of the new cube has no say: its author wrote it.  Raises Forbidden.
    """
    check_write(principal, person, "admin")


def check_share(principal: Principal, person: PersonId) -> None:
    """Check that the principal may change who reads and writes a cube of this owner.

    Raises:
        Forbidden: the cube is the tenant's and the key is no admin's.
    """
    if person == SHARED and not principal.can(Role.ADMIN):
        raise Forbidden(
            "changing the access list of shared memory needs a key with the role `admin`"
        )


def check_write(principal: Principal, person: PersonId, writers: str) -> None:
    """Check that the principal may change a cube of this owner.

    Args:
        writers: from the access list as stored, never from the request.
    Raises:
        Forbidden: it may not; the message names the key or the header that it needs.
    """
    principal.require(Role.WRITER)
    if principal.can(Role.ADMIN):
        return
    if person == SHARED and writers != "tenant":
        raise Forbidden(
            "writing the tenant's shared memory needs a key with the role `admin`; to write a "
            "person's memory, name the person (X-Memos-User)"
        )
    if person == SHARED and principal.token_id:
        raise Forbidden("writing the tenant's shared memory needs a key: this is a person's token")
    if person not in (SHARED, principal.person):
        raise Forbidden("writing another person's memory needs a key with the role `admin`")
