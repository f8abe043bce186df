"""Why: the plans of chats, with each candidate, its scores, and the reason of its decision."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse

from memos_vllm.console.calls import Calls
from memos_vllm.console.charts import Bar, bar
from memos_vllm.console.prompt import in_prompt
from memos_vllm.console.visit import At, ConsoleRoute, Cursor, Offset, Visit
from memos_vllm.governance.permit import PROMPT
from memos_vllm.scheduler.plan import MemoryPlan, PlanEntry

router = APIRouter(route_class=ConsoleRoute, include_in_schema=False)
PLANS, ENTRIES = 50, 50


@dataclasses.dataclass(frozen=True, slots=True)
class Candidate:
    entry: PlanEntry
    text: str | None
    """None: a whole cube, or no longer stored or readable."""
    score: Bar | None
    signals: list[tuple[str, float, Bar]]


@router.get("/plans")
def plans(visit: At, cursor: Cursor = None) -> HTMLResponse:
    """The newest plans of the person, or of the tenant for its admin."""
    found, following = visit.calls.plans(cursor, PLANS)
    return visit.page("plans.html", plans=found, following=following)


@router.get("/plan")
def plan(
    visit: At,
    request: Annotated[str, Query(max_length=300, pattern=r"^[^\x00]+$")],
    offset: Offset = 0,
) -> HTMLResponse:
    """One chat: the question, memory in its place in the prompt, the candidates by decision and score."""
    found = visit.calls.explain(request)
    owner = visit.caller.as_person(found.person)
    of_owner = Calls(visit.system, owner)
    ordered = sorted(found.entries, key=lambda each: each.decision != "used")
    shown = ordered[offset : offset + ENTRIES]
    return visit.page(
        "plan.html",
        plan=found,
        question=of_owner.question(request),
        owner=owner.person,
        prompt=None if offset else in_prompt(visit.system, owner, found),
        candidates=_candidates(visit, found, shown),
        used=len(found.used),
        total=len(ordered),
        offset=offset,
        page=ENTRIES,
    )


def _candidates(visit: Visit, found: MemoryPlan, entries: list[PlanEntry]) -> list[Candidate]:
    """Entries with their texts, as far as the person's prompts may hold them now."""
    owner = visit.caller.as_person(found.person)
    ids = [entry.item for entry in entries if entry.item is not None]
    texts = visit.system.views.recall(owner, ids, PROMPT)
    best = max((abs(entry.score or 0.0) for entry in found.entries), default=0.0)
    return [
        Candidate(
            entry,
            texts[entry.item].item.text if entry.item in texts else None,
            bar(entry.score, best) if entry.score is not None else None,
            [(name, value, bar(value, 1.0)) for name, value in sorted(entry.signals.items())],
        )
        for entry in entries
    ]
