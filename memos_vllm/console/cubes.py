"""One cube: items, versions, grants; changes of its state, rollback, deletion with a preview."""

from __future__ import annotations

import math
from typing import Annotated

from fastapi import APIRouter, Form, Query, Response
from fastapi.responses import HTMLResponse

from memos_vllm.api.grants import GrantView
from memos_vllm.api.models import Merge
from memos_vllm.console.preview import digest_of
from memos_vllm.console.visit import At, ConsoleRoute, Offset, Visit, Word, asked
from memos_vllm.cube.lifecycle import legal_after
from memos_vllm.cube.model import CubePatch, State
from memos_vllm.errors import Conflict, Forbidden, NotFound
from memos_vllm.vault.lineage import Lineage

router = APIRouter(route_class=ConsoleRoute, include_in_schema=False)
ITEMS, VERSIONS = 50, 20
_NOT_CHOSEN = {State.MERGED, State.EXPIRED}
"""States that a merge or an end gives."""

CubeRef = Annotated[str, Query(max_length=200, pattern=r"^[^\x00]+$")]
VersionId = Annotated[str | None, Query(max_length=64, pattern=r"^[^\x00]*$")]
Field = Annotated[str, Form(max_length=500, pattern=r"^[^\x00]*$")]
Day = Annotated[str, Form(alias="expires", pattern=r"^\d{4}-\d\d-\d\d$")]


@router.get("/cube")
def cube(visit: At, cube: CubeRef, version: VersionId = None, offset: Offset = 0) -> HTMLResponse:
    """A cube as it is, in an older version, or as of a day."""
    found = visit.calls.cube(cube, version or None, None if version else visit.day)
    items, meta = found.items, found.meta
    state = [each for each in State if each in legal_after(meta.state) - _NOT_CHOSEN]
    return visit.page(
        "cube.html",
        meta=meta,
        items=items[offset : offset + ITEMS],
        total=len(items),
        pages=math.ceil(len(items) / ITEMS),
        offset=offset,
        page=ITEMS,
        version=version or "",
        states=state,
        grants=_grants(visit, meta.id),
    )


@router.get("/cube/versions")
def versions(visit: At, cube: CubeRef, offset: Offset = 0) -> HTMLResponse:
    """Versions of a cube, newest first: who made each, when, from what."""
    meta = visit.calls.cube(cube, None, None).meta
    found = visit.calls.versions(cube).versions
    return visit.page(
        "versions.html",
        meta=meta,
        versions=found[offset : offset + VERSIONS],
        total=len(found),
        offset=offset,
        page=VERSIONS,
    )


@router.get("/cube/diff")
def diff(visit: At, cube: CubeRef, older: Word, newer: VersionId = None) -> HTMLResponse:
    """Items that a version added and removed."""
    meta = visit.calls.cube(cube, None, None).meta
    found = visit.calls.diff(cube, older, newer or None)
    return visit.page("diff.html", meta=meta, diff=found, most=ITEMS)


@router.post("/cube/state")
def set_state(
    visit: At, cube: CubeRef, state: Field, version: Field, reason: Field = ""
) -> Response:
    """Change the state: freeze (a legal hold), lift the hold, archive, activate."""
    patch = asked(CubePatch, state=state, reason=reason or None)
    visit.calls.update(cube, patch, version)
    return visit.go("cube", cube=cube, done="state")


@router.post("/cube/expiry")
def set_expiry(visit: At, cube: CubeRef, day: Day, version: Field) -> Response:
    """Have the cube expire at the end of a day, UTC."""
    patch = asked(CubePatch, expires=f"{day}T23:59:59+00:00")
    visit.calls.update(cube, patch, version)
    return visit.go("cube", cube=cube, day=None, done="expiry")


@router.post("/cube/merge")
def merge(visit: At, cube: CubeRef, into: Field) -> Response:
    """Merge the items into another cube of the same owner."""
    target = visit.calls.merge(cube, asked(Merge, into=into.strip()))
    return visit.go("cube", cube=target.meta.id, done="merged")


@router.post("/cube/rollback")
def rollback(visit: At, cube: CubeRef, target: Field, version: Field) -> Response:
    """Make a new version with the contents of an older one."""
    visit.calls.rollback(cube, target, version)
    return visit.go("cube", cube=cube, done="rollback")


@router.get("/cube/delete")
def delete_preview(visit: At, cube: CubeRef) -> HTMLResponse:
    """What a deletion takes: the cube, its versions, and the cubes that were made from it."""
    return _preview(visit, cube)


@router.post("/cube/delete")
def delete(visit: At, cube: CubeRef, version: Field, seen: Field) -> Response:
    """Delete a cube, if it and what goes with it are still what the preview has shown."""
    if seen != digest_of(_goes(visit, cube)):
        return _preview(visit, cube, is_changed=True)
    visit.calls.delete(cube, version)
    return visit.go("person/cubes", done="deleted")


def _preview(visit: Visit, cube: str, is_changed: bool = False) -> HTMLResponse:
    found = visit.calls.cube(cube, None, None)
    goes = _goes(visit, cube)
    versions = visit.calls.versions(cube).versions
    return visit.page(
        "delete.html",
        Conflict.status if is_changed else 200,
        meta=found.meta,
        items=found.items[:ITEMS],
        total=len(found.items),
        versions=len(versions),
        made=[each for each in goes[1 : ITEMS + 1] if _is_readable(visit, each)],
        made_in_all=len(goes) - 1,
        seen=digest_of(goes),
        is_changed=is_changed,
    )


def _goes(visit: Visit, cube: str) -> list[str]:
    """Ids of what a deletion takes: `id@version` of the cube, then the cubes below it."""
    meta = visit.calls.cube(cube, None, None).meta
    edges = Lineage(visit.system.database).below(visit.caller.tenant, [meta.id])
    return [f"{meta.id}@{meta.version}", *sorted({edge.made for edge in edges})]


def _is_readable(visit: Visit, cube: str) -> bool:
    try:
        visit.calls.cube(cube, None, None)
    except NotFound:
        return False
    return True


def _grants(visit: Visit, cube: str) -> list[GrantView] | None:
    """Grants on the cube; None: they are not shown to this key."""
    try:
        return visit.calls.grants(cube).grants
    except Forbidden:
        return None
