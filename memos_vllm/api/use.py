"""`/v1/memory/use`: what the caller stores, beside its limits."""

from __future__ import annotations

import dataclasses

from fastapi import APIRouter
from pydantic import Field

from memos_vllm.api.models import ERRORS, Caller, System
from memos_vllm.api.models import Body as Strict
from memos_vllm.api.strict import StrictRoute
from memos_vllm.config.limits import TenantLimits
from memos_vllm.governance.principal import Role
from memos_vllm.vault.quotas import Use

router = APIRouter(route_class=StrictRoute, prefix="/v1/memory", tags=["memory"], responses=ERRORS)


class Stored(Strict):
    used: int
    limit: int | None = Field(description="null: no limit")


class Storage(Strict):
    cubes: Stored
    items: Stored = Field(description="items in the cubes")
    text_bytes: Stored = Field(description="text, all versions, bytes")
    adapters: Stored
    adapter_bytes: Stored = Field(description="adapters, all versions, bytes")
    responses: Stored = Field(description="stored replies of `/v1/responses`, and conversations")
    response_bytes: Stored = Field(description="stored replies and conversations, bytes")


class UseView(Strict):
    person: Storage | None = Field(description="null: the request names no person")
    tenant: Storage | None = Field(description="with its shared memory; null: not an `admin` key")
    training_seconds_left: float | None = Field(
        description="of the tenant, until 00:00 UTC; null: no limit, or not an `admin` key"
    )


@router.get("/use")
def use(system: System, caller: Caller) -> UseView:
    """What the person stores, and for an `admin` key the tenant, beside the limits."""
    quotas, limits = system.quotas, system.limits_of(caller.tenant)
    person = tenant = left = None
    if caller.person:
        mine = quotas.stored(system.database, caller.tenant, caller.person)
        person = _storage(mine, limits, "person_")
    if caller.can(Role.ADMIN):
        tenant = _storage(quotas.stored(system.database, caller.tenant), limits)
        left = quotas.training_left(system.database, caller.tenant)
    return UseView(
        person=person,
        tenant=tenant,
        training_seconds_left=left,
    )


def _storage(use: Use, limits: TenantLimits, prefix: str = "") -> Storage:
    return Storage(
        **{
            name: Stored(used=used, limit=getattr(limits, f"{prefix}{name}", None))
            for name, used in dataclasses.asdict(use).items()
        }
    )
