"""`/v1/memory/entities`: the people, places and things that a person's memory names."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path, Query

from memos_vllm.api.models import ERRORS, Body, Caller, System
from memos_vllm.cube.entities import LONGEST, EntityKind
from memos_vllm.cube.model import Item
from memos_vllm.errors import NotFound

router = APIRouter(prefix="/v1/memory/entities", tags=["entities"], responses=ERRORS)


class EntityView(Body):
    name: str
    kind: EntityKind
    items: int
    first: datetime | None
    last: datetime | None


class EntityPage(Body):
    entities: list[EntityView]


class Edge(Body):
    """An item that names it: with its time, and with what it claims."""

    cube: str
    item: Item


class Edges(Body):
    name: str
    edges: list[Edge]


@router.get("")
def list_entities(
    system: System,
    caller: Caller,
    kind: Annotated[EntityKind | None, Query(description="only these")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> EntityPage:
    """Of the person's own memory; what most items name comes first."""
    known = system.entities.known(caller, kind, limit)
    return EntityPage(
        entities=[
            EntityView(
                name=each.name, kind=each.kind, items=each.items, first=each.first, last=each.last
            )
            for each in known
        ]
    )


@router.get("/{name}")
def entity(
    system: System,
    caller: Caller,
    name: Annotated[str, Path(max_length=LONGEST, pattern=r"^[^\x00]+$")],
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
) -> Edges:
    """What the person's own memory says of it, the newest first."""
    found = system.entities.naming(caller, name, limit)
    if not found:
        raise NotFound(f"nothing of yours names {name!r}", param="name")
    return Edges(name=name, edges=[Edge(cube=cube, item=item) for cube, item in found])
