"""Role of a principal towards one cube, by which the table of transitions decides."""

from __future__ import annotations

from memos_vllm.cube.ids import PersonId
from memos_vllm.cube.lifecycle import Actor
from memos_vllm.governance.principal import Principal, Role


def actor_of(principal: Principal, person: PersonId) -> Actor:
    """
    Args:
        person: owner of the cube; SHARED: the tenant.
    """
    if principal.is_sweep:
        return Actor.SWEEP
    if principal.can(Role.ADMIN):
        return Actor.ADMIN
    return Actor.OWNER if person and principal.person == person else Actor.WRITER
