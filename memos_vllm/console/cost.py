"""What memory cost: tokens injected and cached, and milliseconds of each step, from the stored plans."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from memos_vllm.console.charts import stacked
from memos_vllm.console.visit import At, ConsoleRoute, Cursor
from memos_vllm.vault.plans import StoredPlan

router = APIRouter(route_class=ConsoleRoute, include_in_schema=False)
PLANS = 50
CACHED, COMPUTED = "cached", "computed"


@dataclasses.dataclass(frozen=True, slots=True)
class RequestCost:
    request_id: str
    person: str
    created_us: int
    injected: int
    prompt: int | None
    cached: int | None
    kinds: str
    """Cached tokens by kind and source."""
    total_ms: float


@dataclasses.dataclass(frozen=True, slots=True)
class StepCost:
    name: str
    requests: int
    median_ms: float
    most_ms: float
    total_ms: float


@router.get("/cost")
def cost(visit: At, cursor: Cursor = None) -> HTMLResponse:
    """Costs of a page of requests, newest first; the charts have the oldest on the left."""
    found, following = visit.calls.plans(cursor, PLANS)
    rows = [_of(each) for each in found]
    steps = _steps([each.plan for each in found])
    oldest_first = list(reversed(found))
    return visit.page(
        "cost.html",
        rows=rows,
        steps=steps,
        tokens=stacked([_tokens(each) for each in reversed(rows)], [CACHED, COMPUTED]),
        times=stacked([_times(each.plan) for each in oldest_first], [step.name for step in steps]),
        injected=sum(row.injected for row in rows),
        prompt=sum(row.prompt or 0 for row in rows),
        cached=sum(row.cached or 0 for row in rows),
        following=following,
    )


def _of(stored: StoredPlan) -> RequestCost:
    plan = stored.plan
    kinds = ", ".join(
        f"{each['tokens']} {each['kind']} ({each['source']})" for each in plan.get("cached") or ()
    )
    return RequestCost(
        stored.request_id,
        stored.person,
        stored.created_us,
        plan.get("injected_tokens") or 0,
        plan.get("prompt_tokens"),
        plan.get("cached_tokens"),
        kinds,
        sum(_times(plan).values()),
    )


def _tokens(row: RequestCost) -> dict[str, float]:
    cached = row.cached or 0
    return {CACHED: cached, COMPUTED: max((row.prompt or row.injected) - cached, 0)}


def _times(plan: Mapping[str, Any]) -> dict[str, float]:
    return dict(plan.get("steps_ms") or {})


def _steps(plans: Sequence[Mapping[str, Any]]) -> list[StepCost]:
    """Steps by the time that they took in all, the slowest first."""
    values: dict[str, list[float]] = {}
    for plan in plans:
        for name, took in _times(plan).items():
            values.setdefault(name, []).append(took)
    found = [
        StepCost(name, len(each), statistics.median(each), max(each), sum(each))
        for name, each in values.items()
    ]
    return sorted(found, key=lambda step: -step.total_ms)
