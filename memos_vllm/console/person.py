"""A person's memory: profile, facts with their history, cubes, conversations, search."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from fastapi.responses import HTMLResponse

from memos_vllm.api.models import SearchRequest
from memos_vllm.console.visit import At, ConsoleRoute, Cursor, Offset, Word, asked
from memos_vllm.plaintext.claims.validity import holds

router = APIRouter(route_class=ConsoleRoute, include_in_schema=False)
PAGE = 50
CHAT, DOCUMENT = "chat", "document"
_TOP_K = 20
Which = Literal["all", "conversations", "documents", "shared"]


@router.get("/person")
def profile(visit: At) -> HTMLResponse:
    """What holds now (or held on a day), and how much is stored."""
    calls = visit.calls
    claims = calls.claims(attribute=None, as_of=visit.day, limit=PAGE + 1, at=visit.at).claims
    return visit.page(
        "profile.html",
        claims=claims[:PAGE],
        is_more=len(claims) > PAGE,
        use=calls.use().person,
    )


@router.get("/person/facts")
def facts(visit: At, attribute: Word = "", offset: Offset = 0) -> HTMLResponse:
    """All claims with their history, newest first, those that have ended too."""
    found = visit.calls.claims(
        attribute=attribute or None, as_of=visit.day, limit=PAGE + 1, offset=offset
    ).claims
    return visit.page(
        "facts.html",
        claims=[(each, holds(each.item, visit.at)) for each in found[:PAGE]],
        attribute=attribute,
        offset=offset,
        page=PAGE,
        is_more=len(found) > PAGE,
    )


@router.get("/person/cubes")
def cubes(
    visit: At,
    which: Annotated[Which, Query()] = "all",
    prefix: Word = "",
    cursor: Cursor = None,
) -> HTMLResponse:
    """Cubes of the person, newest first, or those that the tenant shares."""
    is_shared = which == "shared" or not visit.caller.person
    page = visit.calls.cubes(
        person=None if is_shared else visit.caller.person,
        shared=True if is_shared else None,
        prefix=prefix or None,
        cursor=cursor,
        limit=PAGE,
        as_of=visit.day,
        tag={"conversations": CHAT, "documents": DOCUMENT}.get(which),
    )
    return visit.page("cubes.html", page=page, which=which, prefix=prefix)


@router.get("/person/search")
async def search(visit: At, q: Annotated[str, Query(max_length=20_000)] = "") -> Response:
    """Search as a chat would, with the signals of each result."""
    found = None
    if q.strip():
        request = asked(SearchRequest, query=q, top_k=_TOP_K, as_of=visit.day)
        found = await visit.calls.search(request)
    return visit.page("search.html", q=q, found=found)
