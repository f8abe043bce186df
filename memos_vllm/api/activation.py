"""`/v1/memory`: activation memory, a cube's KV built at once and shown."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Protocol

from fastapi import APIRouter, Body, Depends, Request
from pydantic import Field

from memos_vllm.api.models import ERRORS, Caller, Ref, System
from memos_vllm.api.models import Body as Strict
from memos_vllm.api.usage import cube_kv
from memos_vllm.cube.model import Kind, Placement, Text
from memos_vllm.errors import Forbidden, NotBuilt, Unprocessable
from memos_vllm.governance.principal import LOCAL_TENANT, Principal, Role
from memos_vllm.vault.views import AdapterCube

_SHOWN_SEGMENTS = 100
router = APIRouter(prefix="/v1/memory", tags=["activation memory"], responses=ERRORS)


class Activate(Strict):
    """Which head of the prompt to build: KV is exact for the very prompt that it was built in."""

    behind: list[Text] = Field(
        default_factory=list, max_length=64, description="cubes that stand in front of it, in order"
    )
    system: Text | None = Field(
        None,
        max_length=100_000,
        description="the system message of the requests to come; declares it the tenant's own, "
        "which needs an `admin` key",
    )
    pinned: bool = Field(False, description="kept whatever else needs the room")


class SegmentView(Strict):
    end: int = Field(description="tokens of the prompt up to its end")
    tokens: int
    shared: bool = Field(description="serves the tenant's other people too")
    tier: str | None = Field(description="the fastest place that holds it; null: not kept")


class Activated(Strict):
    cube: str
    built: bool = Field(description="false: it was there already")
    seconds: float
    segments: list[SegmentView]


class NearView(Strict):
    """KV of the cube from one context, put into other places and measured there."""

    behind: int = Field(description="cubes that stand before it in that context")
    kl: float = Field(description="mean KL of the first token to exact KV, nats")
    top1: float = Field(description="share of probes with the same likeliest token")
    probes: int
    used: bool = Field(description="false: it costs more than `kv.near_max_kl`")


class CubeActivation(Strict):
    cube: str
    chains: int = Field(description="segments that hold the cube, in whichever context")
    bytes: int
    pinned: bool
    segments: list[str] = Field(description="their keys; a hundred at most")
    near: list[NearView] = Field(description="what its KV cost in other places, the best first")


class TierView(Strict):
    name: str
    segments: int
    bytes: int
    max_bytes: int


class Speed(Strict):
    """Tokens a second, measured by this engine; null: not yet."""

    prefill: float | None = Field(description="computed; null on a GPU, where it is not timed")
    ram: float | None = Field(description="read from shared memory and put in place")
    disk: float | None = Field(description="read from disk and put in place")


class UseView(Strict):
    """Since the server started."""

    hits: int = Field(description="segments that were loaded")
    loaded_tokens_ram: int
    loaded_tokens_disk: int
    saved_tokens: int
    load_failures: int
    save_failures: int
    load_seconds: float
    saved_prefill_seconds: float | None = Field(
        description="what computing the loaded tokens would have taken, less what loading took; null "
        "where computing is not timed (on a GPU)"
    )
    tokens_per_second: Speed


class ActivationView(Strict):
    enabled: bool
    tiers: list[TierView] = Field(description="with the segments of all chains in each")
    use: UseView | None = Field(description="null: the engine runs without its KV connector")


class Activator(Protocol):
    """What the engine offers."""

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
    """What an engine that attaches adapters offers."""

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
    """Build a cube's KV now, in the background of the engine, and return when it is kept.

    A parametric cube's adapter is loaded. To pin one needs an `admin` key: memory is everybody's.
    """
    wanted = wanted or Activate()
    caller.require(Role.ADMIN if wanted.system is not None else Role.WRITER)
    cube = await asyncio.to_thread(system.vault.get, caller, ref)
    if cube.meta.kind is Kind.PARAMETRIC:
        return await _load(caller, adapters, cube.meta.id, wanted)
    if engine is None:
        raise NotBuilt(
            "the engine runs without its KV connector, so nothing can be built: start it with "
            "`memos serve` and a `--kv-tier` other than none"
        )
    is_placed = cube.meta.placement is Placement.STABLE and not wanted.behind
    # A placed cube stands in every head without being named.
    cubes = [] if is_placed else [*wanted.behind, cube.meta.id]
    built, seconds, segments = await engine.activate(caller, cubes, wanted.system)
    await asyncio.to_thread(system.segments.pin, cube.meta.id, wanted.pinned)
    return Activated(cube=cube.meta.id, built=built, seconds=seconds, segments=segments)


async def _load(
    caller: Principal, adapters: AdapterLoader | None, cube: str, wanted: Activate
) -> Activated:
    if adapters is None:
        raise NotBuilt("the server attaches no adapters: start it with --enable-lora")
    if wanted.behind or wanted.system is not None:
        raise Unprocessable("`behind` and `system` are for cubes of text", param="behind")
    if wanted.pinned:
        caller.require(Role.ADMIN)
    found = await adapters.find(caller, cube)
    if found is None:
        raise Unprocessable(
            "it serves nobody in its state, or nobody but somebody else", param="ref"
        )
    if (problem := adapters.problem(found)) is not None:
        raise Unprocessable(problem)
    started = time.perf_counter()
    await adapters.pin(found, wanted.pinned if caller.can(Role.ADMIN) else None)
    seconds = round(time.perf_counter() - started, 3)
    return Activated(cube=cube, built=True, seconds=seconds, segments=[])


@router.get("/cubes/{ref}/activation")
def cube_activation(system: System, caller: Caller, ref: Ref) -> CubeActivation:
    """The KV that is kept of a cube, as far as it serves whoever asks; for an admin, all of it."""
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
        segments=sorted({key.partition(".")[0] for key in kv.segments})[:_SHOWN_SEGMENTS],
        near=near,
    )


@router.get("/activation")
def activation(system: System, caller: Caller, engine: Engine) -> ActivationView:
    """What is kept, tier by tier, and what it spared. Needs an `admin` key of the operator's tenant."""
    caller.require(Role.ADMIN)
    if caller.tenant not in (system.config.governance.operator_tenant, LOCAL_TENANT):
        raise Forbidden("this shows all tenants together: it needs a key of the operator's tenant")
    tiers = []
    for tier in system.segments.tiers():
        count, size = tier.totals()
        tiers.append(TierView(name=tier.name, segments=count, bytes=size, max_bytes=tier.max_bytes))
    use = engine.use() if engine is not None else None
    return ActivationView(enabled=engine is not None, tiers=tiers, use=use)
