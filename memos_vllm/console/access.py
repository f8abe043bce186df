"""Who may see a person's memory: person tokens, links to the person's own view, erasure of the person."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import HTMLResponse

from memos_vllm.console.cubes import Field
from memos_vllm.console.visit import At, ConsoleRoute, Visit
from memos_vllm.errors import BadRequest
from memos_vllm.governance.principal import check_person

router = APIRouter(route_class=ConsoleRoute, include_in_schema=False)
TOKENS = 100


@router.get("/access")
def access(visit: At) -> HTMLResponse:
    """Tokens of a person that count, without their strings."""
    return _page(visit)


@router.post("/access/link")
def make_link(visit: At) -> HTMLResponse:
    """Make a link to the person's own view; it is shown this once."""
    made = visit.whole_tenant.view(visit.request, _person(visit))
    return _page(visit, link=made.url)


@router.post("/access/revoke")
def revoke(visit: At, token: Field) -> Response:
    """Revoke a token of the person."""
    visit.whole_tenant.revoke(_person(visit), token)
    return visit.go("access", done="revoked")


@router.get("/access/erase")
def erase_page(visit: At) -> HTMLResponse:
    """What an erasure takes; the name is typed to confirm it."""
    return visit.page("erase.html", use=visit.calls.use().person, wrong=False)


@router.post("/access/erase")
async def erase(visit: At, name: Field) -> Response:
    """Erase the person: memory, KV, adapters, jobs, tokens, names. It cannot be undone."""
    person = _person(visit)
    if check_person(name.strip()) != person:
        raise BadRequest("the name is not that of the person whose memory is open", param="name")
    done = await visit.whole_tenant.erase(person)
    if visit.is_admin:
        return visit.go("erasure", erasure=done.id, person=None)
    return visit.page("erased.html", erasure=done)


def _page(visit: Visit, link: str | None = None) -> HTMLResponse:
    found = visit.whole_tenant.tokens(_person(visit)).tokens
    return visit.page("access.html", tokens=found[-TOKENS:], total=len(found), link=link)


def _person(visit: Visit) -> str:
    """Raises BadRequest: no person is named."""
    if not visit.caller.person:
        raise BadRequest("name a person", param="person")
    return visit.caller.person
