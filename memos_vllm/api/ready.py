"""`GET /ready`: whether the server has answered a chat of its own, for load balancers and orchestrators."""

from __future__ import annotations

import dataclasses

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

router = APIRouter(tags=["memory"])


@dataclasses.dataclass
class Readiness:
    """Of one server (`app.state.memos_ready`)."""

    waits_for: str | None = "the engine"
    """What is missing; None: nothing is."""


class ReadyView(BaseModel):
    ready: bool
    waits_for: str | None = Field(description="null: nothing")


@router.get("/ready", include_in_schema=False)  # a probe, as vLLM's /health: no errors, no examples
def ready(request: Request) -> JSONResponse:
    """200 when a chat has gone through every part, 503 before."""
    state: Readiness = request.app.state.memos_ready
    view = ReadyView(ready=state.waits_for is None, waits_for=state.waits_for)
    return JSONResponse(view.model_dump(), status_code=200 if view.ready else 503)
