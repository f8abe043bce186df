"""`/v1/memory`: activation memory. Build and list the KV of a cube."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import Annotated, Protocol

from fastapi import APIRouter, Body, Depends, Request
from pydantic import Field

from memos_vllm.activation.compacts import Compact
from memos_vllm.api.models import ERRORS, Caller, Ref, System
from memos_vllm.api.models import Body as Strict
from memos_vllm.api.strict import StrictRoute
from memos_vllm.api.usage import cube_kv
from memos_vllm.cube.model import Kind, Placement, Text
from memos_vllm.errors import Forbidden, NotBuilt, Unprocessable
from memos_vllm.governance.permit import Permission
from memos_vllm.governance.principal import LOCAL_TENANT, Principal, Role
from memos_vllm.vault.views import AdapterCube

_SHOWN_SEGMENTS = 100
router = APIRouter(
    route_class=StrictRoute, prefix="/v1/memory", tags=["activation memory"], responses=ERRORS
)


class Activate(Strict):
    """The prompt head to build: KV is exact only for the prompt that it was built in."""

    behind: list[Text] = Field(
        default_factory=list, max_length=64, description="cubes before it in the prompt, in order"
    )
    system: Text | None = Field(
        None,
        max_length=100_000,
        description="the system message of later requests; it becomes the tenant's, which needs an "
        "`admin` key",
    )
    pinned: bool = Field(False, description="never evicted")


class SegmentView(Strict):
    end: int = Field(description="position of its end in the prompt, tokens")
    tokens: int
    shared: bool = Field(description="also used for other people of the tenant")
    tier: str | None = Field(description="the fastest tier that holds it; null: not stored")


class Activated(Strict):
    cube: str
    built: bool = Field(description="false: it already existed")
    seconds: float
    segments: list[SegmentView]


class NearView(Strict):
    """Quality of the cube's KV from one context when it is used in other contexts."""

    behind: int = Field(description="cubes before it in that context")
    kl: float = Field(description="mean KL of the first token to exact KV, nats")
    top1: float = Field(description="share of probes with the same likeliest token")
    probes: int
    used: bool = Field(description="false: `kl` exceeds `kv.near_max_kl`")


class CompactView(Strict):
    """KV of the cube in fewer places than its text has tokens."""

    places: int
    tokens: int = Field(description="of the text")
    method: str = Field(description="match, distil")
    kl: float | None = Field(
        description="mean KL of held-out answers from those with the text in the prompt, nats"
    )
    recall: float | None = Field(
        description="right answers in the exam over those with the text; null: there was no exam"
    )


class CubeActivation(Strict):
    cube: str
    chains: int = Field(description="segments that hold the cube, over all contexts")
    bytes: int
    pinned: bool
    segments: list[str] = Field(description="keys of the segments; at most 100")
    near: list[NearView] = Field(description="its quality in other contexts, best first")
    compact: CompactView | None = Field(description="for `memory.kv: compact`; null: it has none")


class TierView(Strict):
    name: str
    segments: int
    bytes: int
    max_bytes: int


class Speed(Strict):
    """Tokens per second, measured by this engine; null: not measured yet."""

    prefill: float | None = Field(description="prefill; null on a GPU, where it is not timed")
    ram: float | None = Field(description="load from shared memory")
    disk: float | None = Field(description="load from disk")


class UseView(Strict):
    """Counters since the server started."""

    hits: int = Field(description="loaded segments")
    loaded_tokens_ram: int
    loaded_tokens_disk: int
    saved_tokens: int
    load_failures: int
    save_failures: int
    load_seconds: float
    saved_prefill_seconds: float | None = Field(
        description="estimated prefill time of the loaded tokens minus their load time; null where "
        "prefill is not timed (on a GPU)"
    )
    tokens_per_second: Speed


class ActivationView(Strict):
    enabled: bool
    tiers: list[TierView] = Field(description="tiers, each with its segments of all chains")
    use: UseView | None = Field(description="null: the engine runs without the KV connector")


class Activator(Protocol):
    """The engine's KV operations."""

    async def activate(
        self, caller: Principal, cubes: list[str], system: str | None
    ) -> tuple[bool, float, list[SegmentView]]: ...

    def use(self) -> UseView: ...


async def _activator(request: Request) -> Activator | None:
    engine = getattr(request.app.state, "memos_engine", None)
    activator: Activator | None = getattr(engine, "activator", None)
    return activator


Engine = Annotated[Activator | None, Depends(_activator)]


class AdapterLoader(Protocol):
    """The adapter operations of an engine that attaches adapters."""

    async def find(self, principal: Principal, ref: str) -> AdapterCube | None: ...
    def problem(self, cube: AdapterCube) -> str | None: ...
    async def pin(self, cube: AdapterCube, on: bool | None) -> None: ...


async def _adapters(request: Request) -> AdapterLoader | None:
    engine = getattr(request.app.state, "memos_engine", None)
    adapters: AdapterLoader | None = getattr(engine, "adapters", None)
    return adapters


Adapters = Annotated[AdapterLoader | None, Depends(_adapters)]


@router.post("/cubes/{ref}/activate")
async def activate_cube(
    system: System,
    caller: Caller,
    engine: Engine,
    adapters: Adapters,
    ref: Ref,
    wanted: Annotated[Activate | None, Body(examples=[{"pinned": True}])] = None,
) -> Activated:
    """Build a cube's KV now, at the engine's background priority, and return when it is stored.

    For a parametric cube, load its adapter. Pinning an adapter needs an `admin` key: all tenants
    share the host memory.
    """
    wanted = wanted or Activate()
    caller.require(Role.ADMIN if wanted.system is not None else Role.WRITER)
    cube = await asyncio.to_thread(system.vault.get, caller, ref)
    if cube.meta.kind is not Kind.PARAMETRIC:
        system.policies.require(caller.tenant, "activation")
    detail = {"person": cube.meta.person or "", "pinned": wanted.pinned}
    if cube.meta.kind is Kind.PARAMETRIC:
        loaded = await _load(caller, adapters, cube.meta.id, wanted)
        await asyncio.to_thread(system.audit.note, caller, "cube.activate", cube.meta.id, detail)
        return loaded
    if engine is None:
        raise NotBuilt(
            "the engine runs without the KV connector, so no KV can be built: start it with "
            "`memos serve` and a `--kv-tier` other than none"
        )
    is_placed = cube.meta.placement is Placement.STABLE and not wanted.behind
    # A `stable` cube is in every prompt head without being named.
    cubes = [] if is_placed else [*wanted.behind, cube.meta.id]
    built, seconds, segments = await engine.activate(caller, cubes, wanted.system)
    await asyncio.to_thread(system.segments.pin, cube.meta.id, wanted.pinned)
    await asyncio.to_thread(system.audit.note, caller, "cube.activate", cube.meta.id, detail)
    return Activated(cube=cube.meta.id, built=built, seconds=seconds, segments=segments)


async def _load(
    caller: Principal, adapters: AdapterLoader | None, cube: str, wanted: Activate
) -> Activated:
    if adapters is None:
        raise NotBuilt("this server does not attach adapters: start it with --enable-lora")
    if wanted.behind or wanted.system is not None:
        raise Unprocessable("`behind` and `system` apply to cubes of text only", param="behind")
    if wanted.pinned:
        caller.require(Role.ADMIN)
    found = await adapters.find(caller, cube)
    if found is None:
        raise Unprocessable(
            "the adapter is not active, or it belongs to another person", param="ref"
        )
    if (problem := adapters.problem(found)) is not None:
        raise Unprocessable(problem)
    started = time.perf_counter()
    await adapters.pin(found, wanted.pinned if caller.can(Role.ADMIN) else None)
    seconds = round(time.perf_counter() - started, 3)
    return Activated(cube=cube, built=True, seconds=seconds, segments=[])


@router.get("/cubes/{ref}/activation")
def cube_activation(system: System, caller: Caller, ref: Ref) -> CubeActivation:
    """Stored KV of a cube that the caller's requests can use; for an admin, all of it."""
    cube = system.vault.get(caller, ref).meta.id
    kv = cube_kv(system, caller, cube)
    near = [
        NearView(
            behind=quality.behind,
            kl=round(quality.kl, 4),
            top1=round(quality.top1, 3),
            probes=quality.probes,
            used=quality.kl <= system.config.kv.near_max_kl,
        )
        for quality in kv.qualities
    ]
    return CubeActivation(
        cube=cube,
        chains=kv.usage.chains,
        bytes=kv.usage.bytes,
        pinned=kv.usage.pinned,
        segments=sorted(set(kv.segments))[:_SHOWN_SEGMENTS],
        near=near,
        compact=_compact_view(kv.compacts[0]) if kv.compacts else None,
    )


@router.delete("/cubes/{ref}/compact", status_code=204)
def delete_compact(system: System, caller: Caller, ref: Ref) -> None:
    """Delete a cube's compact; the cube itself, and its other KV, stay."""
    caller.require(Role.WRITER)
    cube = system.vault.get(caller, ref).meta.id
    system.grants.check(caller, cube, Permission.WRITE)
    for compact in cube_kv(system, caller, cube).compacts:
        for rank in compact.ranks:
            system.segments.wipe_segment(dataclasses.replace(compact.name, rank=rank))
    system.segments.sweep_compacts()
    system.audit.note(caller, "cube.compact.delete", cube, {})


def _compact_view(compact: Compact) -> CompactView:
    return CompactView(
        places=compact.places,
        tokens=compact.tokens,
        method=compact.method,
        kl=compact.kl,
        recall=compact.recall,
    )


@router.get("/activation")
def activation(system: System, caller: Caller, engine: Engine) -> ActivationView:
    """Stored KV by tier, and its use. Needs an `admin` key of the operator's tenant."""
    caller.require(Role.ADMIN)
    if caller.tenant not in (system.config.governance.operator_tenant, LOCAL_TENANT):
        raise Forbidden("this covers all tenants: it needs a key of the operator's tenant")
    tiers = []
    for tier in system.segments.tiers():
        count, size = tier.totals()
        tiers.append(TierView(name=tier.name, segments=count, bytes=size, max_bytes=tier.max_bytes))
    use = engine.use() if engine is not None else None
    return ActivationView(enabled=engine is not None, tiers=tiers, use=use)
