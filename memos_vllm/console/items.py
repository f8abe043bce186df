"""One item: its whole text in parts, correction of a statement, change or removal of other text."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Query, Response
from fastapi.responses import HTMLResponse

from memos_vllm.api.claims import FeedbackRequest
from memos_vllm.console.cubes import CubeRef, Field
from memos_vllm.console.pages import LONG
from memos_vllm.console.visit import At, ConsoleRoute, Offset, Visit, asked
from memos_vllm.cube.model import CubePatch, ExplicitPayload, Item, Kind, MemCube
from memos_vllm.errors import NotFound, Unprocessable

router = APIRouter(route_class=ConsoleRoute, include_in_schema=False)
ItemRef = Annotated[str, Query(max_length=64, pattern=r"^[^\x00]+$")]
Text = Annotated[str, Form(max_length=1_000_000, pattern=r"^[^\x00]*$")]


@router.get("/item")
def item(visit: At, cube: CubeRef, item: ItemRef, offset: Offset = 0) -> HTMLResponse:
    """An item with the whole of its text, in parts."""
    found = visit.calls.cube(cube, None, visit.day)
    one = _find(found, item)
    return visit.page(
        "item.html",
        meta=found.meta,
        item=one,
        part=one.text[offset : offset + LONG],
        offset=offset,
        page=LONG,
        is_statement=_is_statement(visit, found, one),
    )


@router.post("/item/correct")
def correct(visit: At, cube: CubeRef, item: ItemRef, text: Text) -> Response:
    """Correct a statement: the known one ends now, and the new one stands in its place."""
    request = asked(FeedbackRequest, action="correct", items=[item], text=_clean(text))
    visit.calls.feedback(request)
    return visit.go("person/facts", done="corrected")


@router.post("/item/change")
def change(visit: At, cube: CubeRef, item: ItemRef, text: Text, version: Field) -> Response:
    """Change the text of one item, as a new version of its cube."""
    found = visit.calls.cube(cube, None, None)
    _find(found, item)
    changed = [
        each.model_copy(update={"id": None, "text": _clean(text)}) if each.id == item else each
        for each in found.items
    ]
    _put(visit, cube, changed, version)
    return visit.go("cube", cube=cube, done="changed")


@router.post("/item/remove")
def remove(visit: At, cube: CubeRef, item: ItemRef, version: Field) -> Response:
    """Remove one item, as a new version of its cube; older versions keep it."""
    found = visit.calls.cube(cube, None, None)
    _find(found, item)
    _put(visit, cube, [each for each in found.items if each.id != item], version)
    return visit.go("cube", cube=cube, done="removed")


def _put(visit: Visit, cube: str, content: list[Item], version: str) -> None:
    patch = asked(CubePatch, payload=ExplicitPayload(content=content))
    visit.calls.update(cube, patch, version)


def _find(cube: MemCube, ref: str) -> Item:
    if cube.meta.kind is not Kind.EXPLICIT:
        raise Unprocessable("the cube holds no text")
    found = next((each for each in cube.items if each.id == ref), None)
    if found is None:
        raise NotFound("the item is not in this cube now", param="item")
    return found


def _is_statement(visit: Visit, cube: MemCube, item: Item) -> bool:
    """Whether feedback changes the item: a claim or quotation of the person's own; else a new version does."""
    is_own = bool(visit.caller.person) and cube.meta.person == visit.caller.person
    return is_own and (item.claim is not None or item.session is not None)


def _clean(text: str) -> str:
    """A text as a browser sends it, with the ends of lines that it was given."""
    return text.replace("\r\n", "\n").strip()
