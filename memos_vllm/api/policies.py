"""`/v1/memory/policy`: the tenant's policy in force, and its versions."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query
from pydantic import Field

from memos_vllm.api.models import ERRORS, Caller, System
from memos_vllm.api.models import Body as Strict
from memos_vllm.api.strict import StrictRoute
from memos_vllm.config.policies import TenantPolicy
from memos_vllm.cube.ids import to_datetime
from memos_vllm.learning.policy import set_policy
from memos_vllm.vault.policies import PolicyVersion

router = APIRouter(
    route_class=StrictRoute, prefix="/v1/memory/policy", tags=["policy"], responses=ERRORS
)

EXAMPLE: dict[str, Any] = {
    "kinds": ["plaintext", "activation"],
    "retention": [{"max_days": 365}, {"max_days": 30, "tag": "chat"}],
    "redaction": {"mode": "mark", "kinds": ["secrets", "email"]},
}


class VersionView(Strict):
    number: int
    key: str = Field(description="id of the key that set it")
    created: datetime
    policy: dict[str, Any] = Field(description="the keys that it sets")


class PolicyView(Strict):
    in_force: TenantPolicy
    own: VersionView | None = Field(
        description="the tenant's own version; null: all is the operator's"
    )


class PolicyVersions(Strict):
    versions: list[VersionView]


@router.get("")
def get_policy(system: System, caller: Caller) -> PolicyView:
    """The policy in force for the tenant. Needs an `admin` key."""
    policy, own = system.policies.current(caller)
    return PolicyView(in_force=policy, own=_view(own) if own is not None else None)


@router.put("")
def put_policy(
    system: System, caller: Caller, policy: Annotated[dict[str, Any], Body(examples=[EXAMPLE])]
) -> PolicyView:
    """Set the tenant's own policy, as a new version. Needs an `admin` key.

    A key that is left out is the operator's; `{}` leaves all to the operator.
    """
    set_policy(system, caller, policy)
    return get_policy(system, caller)


@router.get("/versions")
def list_policy_versions(
    system: System, caller: Caller, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> PolicyVersions:
    """The tenant's own versions, newest first. Needs an `admin` key."""
    return PolicyVersions(
        versions=[_view(each) for each in system.policies.versions(caller, limit)]
    )


def _view(version: PolicyVersion) -> VersionView:
    return VersionView(
        number=version.number,
        key=version.key_id,
        created=to_datetime(version.created_us),
        policy=version.body,
    )
