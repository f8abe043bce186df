"""Set the policy of a tenant, and end what the new one does not allow."""

from __future__ import annotations

from typing import Any

from memos_vllm.errors import SegmentsUnavailable
from memos_vllm.governance.principal import Principal
from memos_vllm.system import MemorySystem
from memos_vllm.vault.policies import PolicyVersion


def set_policy(system: MemorySystem, principal: Principal, tree: Any) -> PolicyVersion:
    """Set the tenant's own policy.

    KV that was shared by the whole tenant is wiped where it is each person's from now on: a later order
    to forget would not find a person's words there.

    Raises:
        Forbidden, BadRequest, Conflict: nothing was set.
        SegmentsUnavailable: it is set, and the KV is not wiped; setting it again wipes it.
    """
    made = system.policies.put(principal, tree)
    if system.policies.isolation_of(principal.tenant) == "person":
        try:
            system.segments.forget_scope(system.scopes.tenant(principal))
        except OSError as error:
            raise SegmentsUnavailable(f"the tenant's KV cannot be wiped: {error}") from error
    return made
