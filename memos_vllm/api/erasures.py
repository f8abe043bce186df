"""`/v1/memory/people/{person}` and `/v1/memory/erasures`: erase a person, with a signed receipt."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response
from pydantic import ConfigDict, Field

from memos_vllm.api.models import ERRORS, Caller, System
from memos_vllm.api.models import Body as Strict
from memos_vllm.api.strict import StrictRoute
from memos_vllm.api.tokens import Person
from memos_vllm.cube.model import Text
from memos_vllm.erasure.eraser import Eraser
from memos_vllm.governance.principal import MAX_NAME_LENGTH, Role
from memos_vllm.vault.erasures import Erasure, ErasureState

router = APIRouter(route_class=StrictRoute, prefix="/v1/memory", tags=["erasure"], responses=ERRORS)

_LOOK_SECONDS = 0.2
_KEEP = "erase all else where cubes are frozen; without it they are a 409 and nothing is erased"
Wait = Annotated[
    float, Query(ge=0, le=60, description="wait so many seconds for the receipt (then 200)")
]
KeepFrozen = Annotated[bool, Query(description=_KEEP)]
ErasureId = Annotated[
    str, Path(description="id of an erasure", max_length=64, pattern=r"^[^\x00/]+$")
]


class ErasureRequest(Strict):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"person": "alice"}]})
    person: Text = Field(max_length=MAX_NAME_LENGTH)
    keep_frozen: bool = Field(False, description=_KEEP)


class ErasureView(Strict):
    id: str
    state: ErasureState
    step: str | None = Field(description="what runs now")
    requested: datetime
    finished: datetime | None
    subject_key: str = Field(
        description="with it, the person's name gives the receipt's `subject`; not in the receipt"
    )
    receipt: dict[str, Any] | None = Field(description="signed; null: it is not done yet")


class ErasurePage(Strict):
    erasures: list[ErasureView]


@router.delete("/people/{person:path}", status_code=202)
async def erase_person(
    system: System,
    caller: Caller,
    response: Response,
    person: Person,
    keep_frozen: KeepFrozen = False,
    wait: Wait = 0.0,
) -> ErasureView:
    """Erase a person: memory, KV, adapters, jobs, tokens, names. Needs an `admin` key, or a token of the
    person with `memory.delete`. When this returns, no request finds anything of before."""
    return await _erased(system, caller, response, (person, keep_frozen, wait))


@router.post("/erasures", status_code=202)
async def create_erasure(
    system: System, caller: Caller, response: Response, request: ErasureRequest, wait: Wait = 0.0
) -> ErasureView:
    """The same, with the person in the body, so that no access log has the name."""
    return await _erased(system, caller, response, (request.person, request.keep_frozen, wait))


@router.get("/erasures")
def list_erasures(
    system: System, caller: Caller, limit: Annotated[int, Query(ge=1, le=200)] = 50
) -> ErasurePage:
    """Erasures of the tenant, newest first. Needs an `admin` key."""
    caller.require(Role.ADMIN)
    eraser = Eraser(system)
    return ErasurePage(
        erasures=[_view(eraser, each) for each in system.erasures.page(caller.tenant, limit)]
    )


@router.get("/erasures/{erasure}")
def get_erasure(system: System, caller: Caller, erasure: ErasureId) -> ErasureView:
    """Progress of an erasure, and its receipt. Needs an `admin` key."""
    eraser = Eraser(system)
    return _view(eraser, eraser.status(caller, erasure))


async def _erased(
    system: System, caller: Caller, response: Response, asked: tuple[str, bool, float]
) -> ErasureView:
    person, keep_frozen, wait = asked
    eraser, started = Eraser(system), time.monotonic()
    found = await asyncio.to_thread(eraser.request, caller, person, keep_frozen)
    while found.receipt is None and time.monotonic() - started < wait:
        await asyncio.sleep(_LOOK_SECONDS)
        found = await asyncio.to_thread(system.erasures.get, caller.tenant, found.id)
    if found.receipt is not None:
        response.status_code = 200
    return _view(eraser, found)


def _view(eraser: Eraser, found: Erasure) -> ErasureView:
    return ErasureView(
        id=found.id,
        state=found.state,
        step=found.progress.get("step"),
        requested=found.created,
        finished=found.finished,
        subject_key=eraser.subject_key(found),
        receipt=dict(found.receipt) if found.receipt is not None else None,
    )
