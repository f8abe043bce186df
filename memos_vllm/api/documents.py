"""`/v1/memory/documents`: store a file as a cube of passages."""

from __future__ import annotations

import asyncio
import threading
from typing import Annotated

from fastapi import APIRouter, File, Form, Request, Response, UploadFile
from fastapi.concurrency import run_in_threadpool

from memos_vllm.api.models import ERRORS, Caller, System
from memos_vllm.api.strict import StrictRoute
from memos_vllm.cube.model import (
    ExplicitPayload,
    Item,
    MemCube,
    Name,
    NewCube,
    NewMeta,
    Placement,
    Provenance,
)
from memos_vllm.errors import TooLarge
from memos_vllm.governance.principal import Role
from memos_vllm.importers.documents import FORMAT
from memos_vllm.plaintext.documents.read import clean_name

_LOOK_SECONDS = 0.2  # between looks at whether the client is still there

router = APIRouter(
    route_class=StrictRoute, prefix="/v1/memory/documents", tags=["memory cubes"], responses=ERRORS
)


@router.post("", status_code=201)
async def create_document(
    request: Request,
    system: System,
    caller: Caller,
    response: Response,
    file: Annotated[UploadFile, File(description="Markdown, HTML, PDF or plain text (UTF-8)")],
    name: Annotated[Name | None, Form(description="name of the cube; default: the file's")] = None,
    shared: Annotated[bool, Form(description="shared by the tenant, not a person's")] = False,
    placement: Annotated[Placement, Form()] = Placement.RETRIEVED,
) -> MemCube:
    """Store a document as passages, each with its headings; searchable when this returns.

    It is parsed in a process of its own, which ends when the client goes away.
    """
    caller.require(Role.WRITER)
    limit = system.config.limits.document_bytes
    if file.size is not None and file.size > limit:
        raise TooLarge(f"{file.size} bytes; at most {limit} (limits.document_bytes)", param="file")
    label = clean_name(file.filename or "")
    gone = threading.Event()

    def read() -> list[Item]:
        return system.documents.read(
            label, lambda: file.file.read(limit + 1), limit, tenant=caller.tenant, gone=gone
        )

    reading = asyncio.get_running_loop().run_in_executor(system.documents.threads, read)
    items = await _while_connected(request, gone, reading)
    meta = NewMeta(
        name=name or label,
        shared=shared,
        placement=placement,
        tags=["import", FORMAT],
        provenance=Provenance(origin=f"import:{FORMAT}", note=label),
    )
    new = NewCube(meta=meta, payload=ExplicitPayload(content=items))
    made = (await run_in_threadpool(system.create, caller, [new]))[0]
    response.headers["ETag"] = f'"{made.meta.version}"'
    return made


async def _while_connected(
    request: Request, gone: threading.Event, reading: asyncio.Future[list[Item]]
) -> list[Item]:
    """The result of a call in a thread; `gone` is set when the client goes away before it."""
    try:
        while True:
            done, _ = await asyncio.wait({reading}, timeout=_LOOK_SECONDS)
            if done:
                return reading.result()
            if await request.is_disconnected():
                gone.set()
    finally:
        gone.set()
