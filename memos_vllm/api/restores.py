"""`/v1/memory/people/{person}/restore`: bring a person's memory back to a past moment."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path, Response
from pydantic import ConfigDict, Field

from memos_vllm.api.models import ERRORS, Caller, System
from memos_vllm.api.models import Body as Strict
from memos_vllm.api.strict import StrictRoute
from memos_vllm.api.tokens import Person
from memos_vllm.as_of import AsOf
from memos_vllm.cube.ids import to_datetime, to_us
from memos_vllm.learning.restore import Difference, Restoring
from memos_vllm.vault.restores import Restore

router = APIRouter(
    route_class=StrictRoute, prefix="/v1/memory/people", tags=["restores"], responses=ERRORS
)
RestoreId = Annotated[
    str, Path(description="id of a restore", max_length=64, pattern=r"^[^\x00/]+$")
]


class RestoreRequest(Strict):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"as_of": "2026-03-01T12:00:00Z", "dry_run": True}]},
    )
    as_of: AsOf = Field(description="past moment: ISO 8601 with a zone, or seconds ago")
    dry_run: bool = Field(False, description="list the differences, and change nothing")


class RestoreView(Strict):
    id: str | None = Field(description="null: a dry run")
    state: str = Field(description="`dry_run`, `queued`, `done`")
    as_of: datetime
    ordered: datetime | None = None
    cubes: list[Difference] = Field(description="cubes that differ from then")


@router.post("/{person:path}/restore", status_code=202)
def restore_person(
    system: System, caller: Caller, response: Response, person: Person, request: RestoreRequest
) -> RestoreView:
    """Restore a person's memory as new versions, by a durable job.

    Needs an `admin` key, or the person's own token with `memory.write`. With `dry_run` the differences come
    at once.
    """
    as_of_us = to_us(request.as_of)
    if request.dry_run:
        response.status_code = 200
        cubes = Restoring(system).preview(caller, person, as_of_us)
        return RestoreView(id=None, state="dry_run", as_of=request.as_of, cubes=cubes)
    return _view(system.restores.add(caller, person, as_of_us))


@router.get("/{person:path}/restores/{restore}")
def get_restore(system: System, caller: Caller, person: Person, restore: RestoreId) -> RestoreView:
    """A restore: whether it is done, and what it did."""
    return _view(system.restores.get(caller, person, restore))


def _view(restore: Restore) -> RestoreView:
    return RestoreView(
        id=restore.id,
        state=restore.state,
        as_of=restore.as_of,
        ordered=to_datetime(restore.created_us),
        cubes=[Difference.model_validate(each) for each in restore.report.get("cubes", [])],
    )
