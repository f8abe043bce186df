"""`/v1/memory`: jobs that derive one kind of memory from another."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Path, Query
from pydantic import Field

from memos_vllm.api.models import ERRORS, Caller, Ref, System
from memos_vllm.api.models import Body as Strict
from memos_vllm.api.strict import StrictRoute
from memos_vllm.transforms import submit
from memos_vllm.transforms.requests import Compact, Decode, Distill, Recover
from memos_vllm.vault.set_aside import FailedJob, SetAside
from memos_vllm.vault.transform_records import Transform
from memos_vllm.vault.transform_rows import JobState

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


class FailedJobView(Strict):
    id: str
    kind: str = Field(
        description="remember (a turn), read, purge, restore, erase; distill, compact, decode, recover"
    )
    person: str | None
    created: datetime
    attempts: int
    error: str = Field(description="class of the last attempt's error, or outcome of a transform")


class FailedJobPage(Strict):
    failed: list[FailedJobView]


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


@router.post("/cubes/{ref}/compact", status_code=202)
def compact_cube(
    system: System,
    caller: Caller,
    ref: Ref,
    request: Annotated[Compact | None, Body(examples=[{"method": "match", "ratio": 4}])] = None,
) -> JobView:
    """Make KV of the cube's text in fewer places than it has tokens, for `memory.kv: "compact"`.

    It is stored if it passes its gate, in place of an older one; a change of the cube deletes it.
    """
    return view(submit.compact(system, caller, ref, request or Compact()))


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
    system: System,
    caller: Caller,
    state: Annotated[
        Literal["failed"] | None,
        Query(description="the tenant's jobs of every kind that were set aside (`admin`)"),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> JobPage | FailedJobPage:
    """The caller's jobs, newest first; for an admin, the tenant's."""
    if state == "failed":
        failed = SetAside(system.database).page(caller, limit)
        return FailedJobPage(failed=[_failed(job) for job in failed])
    return JobPage(jobs=[view(job) for job in system.transforms.page(caller, limit)])


@router.get("/jobs/{job}")
def get_job(system: System, caller: Caller, job: JobId) -> JobView:
    """A job with its progress and report."""
    return view(system.transforms.get(caller, job))


@router.post("/jobs/{job}/cancel")
def cancel_job(system: System, caller: Caller, job: JobId) -> JobView:
    """Cancel a job. Its worker stops after the current step and stores no result."""
    return view(system.transforms.cancel(caller, job))


@router.post("/jobs/{job}/retry")
def retry_job(system: System, caller: Caller, job: JobId) -> FailedJobView:
    """Queue a job again that was set aside, with all its attempts. Needs an `admin` key."""
    return _failed(SetAside(system.database).retry(caller, job))


@router.delete("/jobs/{job}")
def discard_job(system: System, caller: Caller, job: JobId) -> FailedJobView:
    """Delete a job that was set aside, with the turn that it would have made memory. Needs an `admin` key."""
    return _failed(SetAside(system.database).discard(caller, job))


def _failed(job: FailedJob) -> FailedJobView:
    return FailedJobView(**dataclasses.asdict(job))
