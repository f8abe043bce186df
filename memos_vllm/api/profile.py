"""`/v1/memory/profile`: where the server's process spends its processor time."""

from __future__ import annotations

import threading
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from memos_vllm.api.models import ERRORS, Caller, System
from memos_vllm.api.models import Body as Strict
from memos_vllm.api.strict import StrictRoute
from memos_vllm.errors import Conflict, Forbidden, NotBuilt
from memos_vllm.governance.principal import LOCAL_TENANT, Role
from memos_vllm.profiling import is_possible, profile

router = APIRouter(
    route_class=StrictRoute, prefix="/v1/memory", tags=["operation"], responses=ERRORS
)
_ONE = threading.Lock()
_LONGEST_SECONDS = 60


class FunctionView(Strict):
    function: str = Field(description="innermost function")
    within: str | None = Field(description="innermost function of memos_vllm around it")
    cpu_seconds: float


class ThreadView(Strict):
    name: str = Field(description="threads of a pool together")
    cpu_seconds: float
    share: float = Field(description="of one core")
    functions: list[FunctionView] = Field(description="those that took most, at most 10")


class ProfileView(Strict):
    seconds: float
    cpu_seconds: float = Field(description="of the whole process, without the engine's")
    share: float = Field(description="of one core")
    threads: list[ThreadView] = Field(description="those that ran, the busiest first")


@router.get("/profile")
def get_profile(
    system: System,
    caller: Caller,
    seconds: Annotated[float, Query(gt=0, le=_LONGEST_SECONDS, allow_inf_nan=False)] = 5.0,
) -> ProfileView:
    """Processor time of the server's own process by thread and function, over so many seconds from now.

    Needs an `admin` key of the operator's tenant. It shows names of functions, and nothing of any memory.
    """
    caller.require(Role.ADMIN)
    if caller.tenant not in (system.config.governance.operator_tenant, LOCAL_TENANT):
        raise Forbidden("this covers all tenants: it needs a key of the operator's tenant")
    if not is_possible():
        raise NotBuilt("this system does not tell the processor time of each thread")
    if not _ONE.acquire(blocking=False):
        raise Conflict("another profile is being taken: wait for its end")
    try:
        found = profile(seconds)
    finally:
        _ONE.release()
    return ProfileView(
        seconds=found.seconds,
        cpu_seconds=found.cpu_seconds,
        share=round(found.cpu_seconds / found.seconds, 4),
        threads=[
            ThreadView(
                name=thread.name,
                cpu_seconds=thread.cpu_seconds,
                share=round(thread.cpu_seconds / found.seconds, 4),
                functions=[
                    FunctionView(
                        function=each.function, within=each.within, cpu_seconds=each.cpu_seconds
                    )
                    for each in thread.functions
                ],
            )
            for thread in found.threads
        ],
    )
