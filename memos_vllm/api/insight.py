"""`/v1/memory`: search, plans, audit log, and the JSON schema of a MemCube."""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query

from memos_vllm.api.models import (
    ERRORS,
    AuditPage,
    Caller,
    SearchHit,
    SearchQuery,
    SearchRequest,
    SearchResponse,
    System,
)
from memos_vllm.api.strict import StrictRoute
from memos_vllm.cube.model import MemCube
from memos_vllm.errors import EmbedderUnavailable, MemoryTimeout
from memos_vllm.governance.principal import Role
from memos_vllm.learning.recent import until_known
from memos_vllm.plaintext.search.search import Found
from memos_vllm.scheduler.clock import Clock
from memos_vllm.scheduler.plan import MemoryPlan
from memos_vllm.steps import as_of

log = logging.getLogger(__name__)
router = APIRouter(route_class=StrictRoute, prefix="/v1/memory", tags=["memory"], responses=ERRORS)
_LAST_SEQ = 2**62


@router.post("/search")
async def search(system: System, caller: Caller, request: SearchRequest) -> SearchResponse:
    """Search the person's and the tenant's memory; best items first."""
    vector = None
    caller = caller.in_persona(request.persona)
    if request.as_of is not None:
        return await asyncio.to_thread(_search_past, system, caller, request)
    degraded = await _until_known(system, caller)
    owners, focused = await asyncio.to_thread(system.focused, caller, request.query)
    try:
        vector = await system.embed_focused(caller, focused)
    except EmbedderUnavailable as error:
        log.warning("lexical search only, the embedder failed: %s", error)
        degraded = error.reason
    result = await asyncio.to_thread(
        system.search,
        caller,
        request.query,
        vector,
        request.top_k,
        owners,
        where=request.filters,
    )
    return SearchResponse(
        results=[_hit(found) for found in result.found], degraded=result.degraded or degraded
    )


@router.get("/search")
async def search_by_query(
    system: System, caller: Caller, query: Annotated[SearchQuery, Query()]
) -> SearchResponse:
    """The same search by query parameters; a repeated parameter is an alternative."""
    return await search(system, caller, query.as_request())


@router.get("/explain/{request_id}")
def explain(
    system: System,
    caller: Caller,
    request_id: Annotated[str, Path(max_length=300, pattern=r"^[^\x00]+$")],
) -> MemoryPlan:
    """The memory plan of a chat request, by the id of its reply: used and rejected items, and why."""
    plan = MemoryPlan.model_validate(system.plans.get(caller, request_id))
    if plan.kv is not None and not caller.can(Role.ADMIN):
        for segment in plan.kv.segments:
            segment.shared = None  # it would tell what the tenant declares
    return plan


@router.get("/audit")
def audit(
    system: System,
    caller: Caller,
    after: Annotated[
        int, Query(ge=0, le=_LAST_SEQ, description="`seq` of the last record read")
    ] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    verify: Annotated[bool, Query(description="verify the whole log")] = False,
) -> AuditPage:
    """The tenant's audit log, oldest first. Needs an `admin` key."""
    records = system.audit.read(caller, after, limit)
    if not verify:
        return AuditPage(records=records)
    problems = system.audit.verify(caller)
    return AuditPage(records=records, intact=not problems, problems=problems)


@router.get("/schema")
def schema(caller: Caller) -> dict[str, Any]:
    """JSON schema of a MemCube on the wire."""
    return MemCube.model_json_schema()


async def _until_known(system: System, caller: Caller) -> str | None:
    """Wait for what the person said a moment ago, as a chat does; returns the reason where it is late."""
    clock = Clock.started(system.config.prompt.deadline_seconds)
    try:
        async with asyncio.timeout_at(clock.end_of("recent")):
            await until_known(system.turns, caller)
    except TimeoutError:
        return MemoryTimeout("recent").reason
    return None


def _search_past(system: System, caller: Caller, request: SearchRequest) -> SearchResponse:
    assert request.as_of is not None
    result = as_of.search(
        system, caller, request.as_of, request.query, request.top_k, request.filters
    )
    return SearchResponse(results=[_hit(found) for found in result.found], degraded=result.degraded)


def _hit(found: Found) -> SearchHit:
    recalled = found.recalled
    return SearchHit(
        item=recalled.item,
        cube=recalled.cube_id,
        cube_name=recalled.cube_name,
        version=recalled.version,
        person=recalled.person or None,
        score=found.score,
        signals=dict(found.signals),
        over=found.over,
        followed=found.followed,
    )
