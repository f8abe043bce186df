"""Request and response bodies of the Memory API."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import Depends, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from memos_vllm.as_of import AsOf, as_of_parameter
from memos_vllm.cube.filters import ItemFilter, flat_filter
from memos_vllm.cube.model import Header, Item, MemCube, NewCube, Text, Version
from memos_vllm.governance.principal import Principal
from memos_vllm.options import PERSONA
from memos_vllm.system import MemorySystem

# Databases reject NUL in text; rejected here, the error names the field.
_NO_NUL = r"^[^\x00]+$"
Ref = Annotated[str, Path(description="id or name of a cube", max_length=200, pattern=_NO_NUL)]
VersionRef = Annotated[str, Path(description="id of a version", max_length=64, pattern=_NO_NUL)]
Word = Annotated[str | None, Query(max_length=256, pattern=_NO_NUL)]
Moment = Annotated[
    str | None,
    Query(
        max_length=64,
        pattern=_NO_NUL,
        description="past moment: ISO 8601 with a zone (`+` as `%2B`), or seconds ago",
    ),
]

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
    next_cursor: str | None = Field(description="pass as `cursor`; null: last page")


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
        description="Chroma is unavailable: vectors are deleted when it answers; no search returns them"
    )
    stale: list[str] = Field(
        default_factory=list, description="cubes derived from it that still exist"
    )
    deleted_too: list[str] = Field(
        default_factory=list, description="derived cubes that were deleted, too"
    )
    jobs: list[str] = Field(
        default_factory=list, description="jobs that rebuild derived cubes from their other sources"
    )


class Merge(Body):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"into": "cube_0123456789abcdef"}]}
    )
    into: Text = Field(max_length=300, description="id or name of the cube that receives the items")


class SearchRequest(Body):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"query": "What is Alice allergic to?", "top_k": 3}]},
    )
    query: Text = Field(max_length=20_000)
    top_k: int = Field(8, ge=1, le=200)
    persona: str | None = Field(
        None, pattern=PERSONA, description="include this persona's memory, as in a chat"
    )
    filters: ItemFilter | None = Field(
        None, description="conditions of the items, applied before the best are chosen"
    )
    as_of: AsOf | None = Field(
        None, description="past moment of the memory: ISO 8601 with a zone, or seconds ago"
    )


_Words = Annotated[list[Text], Field(max_length=100)]
_Moment = Annotated[str | None, Field(max_length=64)]


class SearchQuery(Body):
    """A search as query parameters; a repeated one is an alternative."""

    query: Text = Field(max_length=20_000)
    top_k: int = Field(8, ge=1, le=200)
    persona: str | None = Field(None, pattern=PERSONA)
    tag: _Words = Field(default_factory=list)
    type: _Words = Field(default_factory=list)
    session: _Words = Field(default_factory=list)
    speaker: _Words = Field(default_factory=list)
    source: _Words = Field(default_factory=list)
    cube: _Words = Field(default_factory=list)
    said_from: _Moment = Field(None, description="time of the message, included")
    said_until: _Moment = Field(None, description="excluded")
    event_from: _Moment = Field(None, description="time of the event or claim, included")
    event_until: _Moment = Field(None, description="excluded")
    marked: bool = Field(False, description="find replies that are no evidence, too")
    as_of: _Moment = Field(None, description="past moment: ISO 8601 with a zone, or seconds ago")

    def as_request(self) -> SearchRequest:
        """Raises BadRequest: a type or a time that is none."""
        words = {"tags": self.tag, "types": self.type, "session": self.session}
        words |= {"speaker": self.speaker, "source": self.source, "cube": self.cube}
        times = {"said_from": self.said_from, "said_until": self.said_until}
        times |= {"event_from": self.event_from, "event_until": self.event_until}
        return SearchRequest(
            query=self.query,
            top_k=self.top_k,
            persona=self.persona,
            filters=flat_filter(words, times, self.marked),
            as_of=as_of_parameter(self.as_of),
        )


class SearchHit(Body):
    item: Item
    cube: str
    cube_name: str | None
    version: str
    person: str | None
    score: float
    signals: dict[str, float]
    over: datetime | None = Field(
        None, description="since when a newer statement replaces it; null: it holds"
    )
    followed: datetime | None = Field(
        None, description="time of a later statement on the same thing, which may have replaced it"
    )


class SearchResponse(Body):
    results: list[SearchHit]
    degraded: str | None = Field(None, description="the part of search that failed")


class AuditPage(Body):
    records: list[dict[str, Any]]
    intact: bool | None = Field(None, description="result of `verify=true`")
    problems: list[str] = Field(
        default_factory=list, description="changed, missing or moved records (`verify=true`)"
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
        400: "malformed request",
        401: "no valid API key",
        403: "the key lacks the role",
        404: "absent, or of another owner",
        409: "concurrent change; the message names the current version",
        413: "over a configured limit",
        422: "well-formed, but cannot be processed",
        501: "this server does not support this kind of memory",
        503: "a component of memory is unavailable",
    }.items()
}


# Coroutines: FastAPI runs plain functions in its thread pool.
async def _system(request: Request) -> MemorySystem:
    system: MemorySystem = request.app.state.memos_system
    return system


async def _principal(request: Request) -> Principal:
    principal: Principal = request.state.memos_principal
    return principal


System = Annotated[MemorySystem, Depends(_system)]
Caller = Annotated[Principal, Depends(_principal)]
