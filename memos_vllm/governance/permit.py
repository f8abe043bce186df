"""What a principal may do with a cube. Pure functions: the vault asks them, nobody else decides.

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
    """Args: `tenant` and `person` own the cube; `readers` is its access list (None: everyone)."""
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
    """Whether a cube may stand in this principal's prompt.

    Stricter than reading: an admin's chat for one person never carries another person's memory.
    """
    if tenant != principal.tenant:
        return False
    if person != SHARED:
        return person == principal.person
    return readers is None or principal.person in readers or principal.can(Role.ADMIN)


def check_write(principal: Principal, person: PersonId, writers: str) -> None:
    """Raise Forbidden unless the principal may create or change a cube of this owner."""
    principal.require(Role.WRITER)
    if principal.can(Role.ADMIN):
        return
    if person == SHARED and writers != "tenant":
        raise Forbidden(
            "the tenant's shared memory is written with a key of the role `admin`; to write a "
            "person's, name the person (X-Memos-User)"
        )
    if person not in (SHARED, principal.person):
        raise Forbidden("a person's memory is written by that person, or with an `admin` key")
