"""The first page, and the people of a tenant."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import HTMLResponse

from memos_vllm.console.visit import At, ConsoleRoute, Word

router = APIRouter(route_class=ConsoleRoute, include_in_schema=False)
PAGE = 50


@router.get("")
def overview(visit: At) -> Response:
    """What the tenant stores, and its newest plans; a token's own memory at once."""
    if visit.caller.token_id:
        return visit.go("person")
    plans, _ = visit.calls.plans(None, 10)
    return visit.page("overview.html", use=visit.calls.use(), plans=plans)


@router.get("/people")
def people(visit: At, after: Word = "", prefix: Word = "") -> HTMLResponse:
    """People with memory, by name. For an admin; other keys name the person that they open."""
    found, following = visit.calls.people(after, prefix, PAGE)
    return visit.page("people.html", people=found, following=following, prefix=prefix)
