"""Bodies of the Memory API, as its OpenAPI document shows them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from memos_vllm.cube.model import Header, Item, MemCube, NewCube, Text, Version
from memos_vllm.governance.principal import Principal
from memos_vllm.options import PERSONA
from memos_vllm.system import MemorySystem

# Databases refuse NUL in text, so names that carry one are refused here, with the field's name.
_NO_NUL = r"^[^\x00]+$"
Ref = Annotated[str, Path(description="id or name of a cube", max_length=200, pattern=_NO_NUL)]
VersionRef = Annotated[str, Path(description="id of a version", max_length=64, pattern=_NO_NUL)]
Word = Annotated[str | None, Query(max_length=256, pattern=_NO_NUL)]

CUBE_EXAMPLE: dict[str, Any] = {
    "meta": {"name": "allergies", "placement": "stable", "tags": ["health"]},
    "payload": {
        "type": "explicit",
        "format": "text",
        "content": [{"type": "fact", "text": "Alice is allergic to peanuts.", "speaker": "Alice"}],
    },
}


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Page(Body):
    cubes: list[Header]
    next_cursor: str | None = Field(description="pass as `cursor`; null: this was the last page")


class Batch(Body):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"cubes": [CUBE_EXAMPLE]}]}
    )
    cubes: list[NewCube] = Field(min_length=1)


class Cubes(Body):
    cubes: list[MemCube]


class Versions(Body):
    versions: list[Version]


class Rollback(Body):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"version": "v_7a1b3c5d7e9f7a1b3c5d7e9f7a1b3c5d7e9f7a1b"}]},
    )
    version: Text = Field(max_length=64)


class Deleted(Body):
    id: str
    deleted: bool = True
    index_pending: bool = Field(
        description="Chroma did not answer: its vectors go as soon as it does; no search returns them"
    )
    stale: list[str] = Field(
        default_factory=list, description="cubes that were made from it, still there"
    )
    deleted_too: list[str] = Field(default_factory=list, description="cubes that were made from it")
    jobs: list[str] = Field(
        default_factory=list, description="that make some of them again, from what is left"
    )


class Merge(Body):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"into": "cube_0123456789abcdef"}]}
    )
    into: Text = Field(max_length=300, description="id or name of the cube that holds both then")


class SearchRequest(Body):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"query": "What is Alice allergic to?", "top_k": 3}]},
    )
    query: Text = Field(max_length=20_000)
    top_k: int = Field(8, ge=1, le=200)
    persona: str | None = Field(
        None, pattern=PERSONA, description="with this persona's own memory, as in a chat"
    )


class SearchHit(Body):
    item: Item
    cube: str
    cube_name: str | None
    version: str
    person: str | None
    score: float
    signals: dict[str, float]


class SearchResponse(Body):
    results: list[SearchHit]
    degraded: str | None = Field(None, description="the part of search that did not answer")


class AuditPage(Body):
    records: list[dict[str, Any]]
    intact: bool | None = Field(None, description="the whole chain was checked (`verify=true`)")
    first_broken: int | None = Field(
        None, description="`seq` where the chain breaks; 0: its end is cut"
    )


class ErrorBody(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: str | int | None = None


class ErrorEnvelope(BaseModel):
    error: ErrorBody


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorEnvelope, "description": text}
    for status, text in {
        400: "the request cannot be understood",
        401: "no valid API key",
        403: "the key may not do this",
        404: "absent, or not yours",
        409: "somebody was faster; the message names the current version",
        413: "over a limit",
        422: "well-formed and still impossible",
        501: "a kind of memory that this version does not serve",
        503: "a part that memory needs does not answer",
    }.items()
}


# Coroutines: a plain function would be sent to a thread and waited for.
async def _system(request: Request) -> MemorySystem:
    system: MemorySystem = request.app.state.memos_system
    return system


async def _principal(request: Request) -> Principal:
    principal: Principal = request.state.memos_principal
    return principal


System = Annotated[MemorySystem, Depends(_system)]
Caller = Annotated[Principal, Depends(_principal)]
