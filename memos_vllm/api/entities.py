"""`/v1/memory/entities`: people, places and things that a person's memory mentions."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path, Query

from memos_vllm.api.models import ERRORS, Body, Caller, System
from memos_vllm.api.strict import StrictRoute
from memos_vllm.cube.entities import LONGEST, EntityKind
from memos_vllm.cube.model import Item
from memos_vllm.errors import NotFound

router = APIRouter(
    route_class=StrictRoute, prefix="/v1/memory/entities", tags=["entities"], responses=ERRORS
)


class EntityView(Body):
    name: str
    kind: EntityKind
    items: int
    first: datetime | None
    last: datetime | None


class EntityPage(Body):
    entities: list[EntityView]


class Edge(Body):
    """An item that mentions the entity, with its time and claim."""

    cube: str
    item: Item


class Edges(Body):
    name: str
    edges: list[Edge]


@router.get("")
def list_entities(
    system: System,
    caller: Caller,
    kind: Annotated[EntityKind | None, Query(description="entities of this kind only")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> EntityPage:
    """Entities of the person's own memory, most mentioned first."""
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
    """Items of the person's own memory that mention an entity, newest first."""
    found = system.entities.naming(caller, name, limit)
    if not found:
        raise NotFound(f"no item of your memory mentions {name!r}", param="name")
    return Edges(name=name, edges=[Edge(cube=cube, item=item) for cube, item in found])
