"""`/v1/memory`: jobs that derive one kind of memory from another."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Body, Path, Query
from pydantic import Field

from memos_vllm.api.models import ERRORS, Caller, Ref, System
from memos_vllm.api.models import Body as Strict
from memos_vllm.api.strict import StrictRoute
from memos_vllm.transforms import submit
from memos_vllm.transforms.requests import Decode, Distill, Recover
from memos_vllm.vault.transform_records import JobState, Transform

router = APIRouter(
    route_class=StrictRoute, prefix="/v1/memory", tags=["memory jobs"], responses=ERRORS
)
JobId = Annotated[str, Path(description="id of a job", max_length=64, pattern=r"^[^\x00]+$")]


class JobView(Strict):
    id: str
    kind: str
    state: JobState = Field(
        description="refused: the result failed its gate; it is stored and not used"
    )
    sources: list[str] = Field(description="source cubes")
    made: str | None = Field(description="the resulting cube")
    progress: dict[str, Any] = Field(description="phase, done, total, loss, seconds")
    report: dict[str, Any] | None = Field(description="measurements; null: the job has not ended")
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
    request: Annotated[
        Distill | None, Body(examples=[{"name": "handbook-lora", "placement": "stable"}])
    ] = None,
) -> JobView:
    """Train an adapter on the cube's text. It becomes active if it passes its gate."""
    return view(submit.distill(system, caller, ref, request or Distill()))


@router.post("/cubes/{ref}/decode", status_code=202)
def decode_cube(
    system: System,
    caller: Caller,
    ref: Ref,
    request: Annotated[Decode | None, Body(examples=[{"topics": ["Orion Station"]}])] = None,
) -> JobView:
    """Decode an adapter: a cube of text with the statements that its answers agree on."""
    return view(submit.decode(system, caller, ref, request or Decode()))


@router.post("/activation/{key}/recover", status_code=202)
def recover_text(
    system: System,
    caller: Caller,
    key: Annotated[str, Path(description="key of a stored segment", pattern=r"^[0-9a-f]{8,64}$")],
    request: Annotated[Recover | None, Body(examples=[{"name": "from-kv"}])] = None,
) -> JobView:
    """Recover the text of stored KV: a new cube with the source text and its provenance.

    `GET /v1/memory/cubes/{ref}/activation` names the segments of a cube.
    """
    return view(submit.recover(system, caller, key, request or Recover()))


@router.get("/jobs")
def list_jobs(
    system: System, caller: Caller, limit: Annotated[int, Query(ge=1, le=200)] = 50
) -> JobPage:
    """The caller's jobs, newest first; for an admin, the tenant's."""
    return JobPage(jobs=[view(job) for job in system.transforms.page(caller, limit)])


@router.get("/jobs/{job}")
def get_job(system: System, caller: Caller, job: JobId) -> JobView:
    """A job with its progress and report."""
    return view(system.transforms.get(caller, job))


@router.post("/jobs/{job}/cancel")
def cancel_job(system: System, caller: Caller, job: JobId) -> JobView:
    """Cancel a job. Its worker stops after the current step and stores no result."""
    return view(system.transforms.cancel(caller, job))
