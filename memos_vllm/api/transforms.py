"""`/v1/memory`: one kind of memory made from another, as jobs."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Body, Path, Query
from pydantic import Field

from memos_vllm.api.models import ERRORS, Caller, Ref, System
from memos_vllm.api.models import Body as Strict
from memos_vllm.transforms import submit
from memos_vllm.transforms.requests import Decode, Distill, Recover
from memos_vllm.vault.transform_records import JobState, Transform

router = APIRouter(prefix="/v1/memory", tags=["memory jobs"], responses=ERRORS)
JobId = Annotated[str, Path(description="id of a job", max_length=64, pattern=r"^[^\x00]+$")]


class JobView(Strict):
    id: str
    kind: str
    state: JobState = Field(
        description="refused: what was made did not pass; it is kept and serves nobody"
    )
    sources: list[str] = Field(description="cubes that it reads")
    made: str | None = Field(description="the cube that came of it")
    progress: dict[str, Any] = Field(description="phase, done, total, loss, seconds")
    report: dict[str, Any] | None = Field(description="what was measured; null: it has not ended")
    created: datetime


class JobPage(Strict):
    jobs: list[JobView]


def view(job: Transform) -> JobView:
    return JobView(
        id=job.id,
        kind=job.kind,
        state=job.state,
        sources=list(job.sources),
        made=job.made,
        progress=job.progress,
        report=job.report,
        created=job.created,
    )


@router.post("/cubes/{ref}/distill", status_code=202)
def distill_cube(
    system: System,
    caller: Caller,
    ref: Ref,
    wish: Annotated[
        Distill | None, Body(examples=[{"name": "handbook-lora", "placement": "stable"}])
    ] = None,
) -> JobView:
    """Train an adapter that knows what the cube says, in the background. It serves if it passes."""
    return view(submit.distill(system, caller, ref, wish or Distill()))


@router.post("/cubes/{ref}/decode", status_code=202)
def decode_cube(
    system: System,
    caller: Caller,
    ref: Ref,
    wish: Annotated[Decode | None, Body(examples=[{"topics": ["Orion Station"]}])] = None,
) -> JobView:
    """Put an adapter into words: a cube of text with what it says again and again."""
    return view(submit.decode(system, caller, ref, wish or Decode()))


@router.post("/activation/{key}/recover", status_code=202)
def recover_text(
    system: System,
    caller: Caller,
    key: Annotated[str, Path(description="of a kept segment", pattern=r"^[0-9a-f]{8,64}$")],
    wish: Annotated[Recover | None, Body(examples=[{"name": "from-kv"}])] = None,
) -> JobView:
    """Trace kept KV back to the text that it was computed from: a new cube, with its provenance.

    `GET /v1/memory/cubes/{ref}/activation` names the segments of a cube.
    """
    return view(submit.recover(system, caller, key, wish or Recover()))


@router.get("/jobs")
def list_jobs(
    system: System, caller: Caller, limit: Annotated[int, Query(ge=1, le=200)] = 50
) -> JobPage:
    """Jobs that you asked for, the newest first; for an admin, the tenant's."""
    return JobPage(jobs=[view(job) for job in system.transforms.page(caller, limit)])


@router.get("/jobs/{job}")
def get_job(system: System, caller: Caller, job: JobId) -> JobView:
    return view(system.transforms.get(caller, job))


@router.post("/jobs/{job}/cancel")
def cancel_job(system: System, caller: Caller, job: JobId) -> JobView:
    """Whoever does it stops after the step that it is in; nothing is stored."""
    return view(system.transforms.cancel(caller, job))
