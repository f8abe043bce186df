"""`/v1/memory/reader`: which reader of turns is in force, and the marks of the model's exam."""

from __future__ import annotations

import dataclasses
from typing import Any

from fastapi import APIRouter

from memos_vllm.api.models import ERRORS, Body, Caller, System
from memos_vllm.api.strict import StrictRoute
from memos_vllm.governance.principal import Role
from memos_vllm.learning.examine import ReaderStatus, last_status

router = APIRouter(route_class=StrictRoute, prefix="/v1/memory", tags=["memory"], responses=ERRORS)


class ReaderAnswer(Body):
    mode: str
    """`reader.mode` as configured."""
    reads: str
    """`rules`, or `model`: the model in addition to rules."""
    reason: str
    forms: list[str]
    """Prompts that the model reads with: `continued`, `alone`."""
    judges: bool
    model: str | None
    """Fingerprint of the weights, or address and name; for admins."""
    version: str | None
    marks: dict[str, dict[str, Any]]


@router.get("/reader")
def reader(system: System, caller: Caller) -> ReaderAnswer:
    """Which reader is in force, why, and the marks of the last exam."""
    caller.require(Role.READER)
    config = system.config.reader
    status = system.reader_status
    if not isinstance(status, ReaderStatus):
        known = last_status(config, system.config.exams_path) if config.mode == "auto" else None
        nothing = "no engine runs in this process"
        status = known or ReaderStatus(config.mode, "rules", nothing)
    shown = dataclasses.asdict(status)
    shown["forms"] = list(status.forms)
    if not caller.can(Role.ADMIN):
        shown["model"] = None
    return ReaderAnswer(**shown)
