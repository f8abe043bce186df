"""Grants on a cube: give a person, a group or the tenant permissions, and take them back."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Response

from memos_vllm.api.grants import NewGrant
from memos_vllm.console.cubes import CubeRef, Field
from memos_vllm.console.visit import At, ConsoleRoute, asked
from memos_vllm.governance.permit import Effect

router = APIRouter(route_class=ConsoleRoute, include_in_schema=False)
_DAY_SECONDS = 86_400

Subject = Annotated[Literal["person", "group", "role", "tenant"], Form()]


@router.post("/cube/share")
def share(
    visit: At,
    cube: CubeRef,
    subject: Subject,
    permissions: Annotated[list[str], Form(max_length=16)],
    name: Field = "",
    days: Annotated[str, Form(max_length=6, pattern=r"^\d*$")] = "",
) -> Response:
    """Set the grant of one subject."""
    ttl_seconds = int(days) * _DAY_SECONDS if days else None
    grant = asked(
        NewGrant, permissions=permissions, ttl_seconds=ttl_seconds, **_named(subject, name)
    )
    visit.calls.set_grant(cube, grant)
    return visit.go("cube", cube=cube, done="shared")


@router.post("/cube/unshare")
def unshare(
    visit: At,
    cube: CubeRef,
    subject: Subject,
    effect: Annotated[Effect, Form()],
    name: Field = "",
) -> Response:
    """Remove the grant of one subject."""
    given = asked(NewGrant, permissions=["read"], **_named(subject, name))
    visit.calls.remove_grants(cube, effect, given)
    return visit.go("cube", cube=cube, done="unshared")


def _named(subject: str, name: str) -> dict[str, Any]:
    return {"tenant": True} if subject == "tenant" else {subject: name.strip()}
