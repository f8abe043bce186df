"""`/v1/memory/documents`: store a file as a cube of passages."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, File, Form, Response, UploadFile

from memos_vllm.api.models import ERRORS, Caller, System
from memos_vllm.cube.model import (
    ExplicitPayload,
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
from memos_vllm.plaintext.reader.documents import clean_name, read_document

router = APIRouter(prefix="/v1/memory/documents", tags=["memory cubes"], responses=ERRORS)


@router.post("", status_code=201)
def create_document(
    system: System,
    caller: Caller,
    response: Response,
    file: Annotated[UploadFile, File(description="Markdown, HTML, PDF or plain text (UTF-8)")],
    name: Annotated[Name | None, Form(description="name of the cube; default: the file's")] = None,
    shared: Annotated[bool, Form(description="shared by the tenant, not a person's")] = False,
    placement: Annotated[Placement, Form()] = Placement.RETRIEVED,
) -> MemCube:
    """Store a document as passages, each with its headings; searchable when this returns."""
    caller.require(Role.WRITER)
    limit = system.config.limits.document_bytes
    if file.size is not None and file.size > limit:
        raise TooLarge(f"{file.size} bytes; at most {limit} (limits.document_bytes)", param="file")
    label = clean_name(file.filename or "")
    items = read_document(file.filename or "", file.file.read(limit + 1), limit)
    meta = NewMeta(
        name=name or label,
        shared=shared,
        placement=placement,
        tags=["import", FORMAT],
        provenance=Provenance(origin=f"import:{FORMAT}", note=label),
    )
    made = system.create(caller, [NewCube(meta=meta, payload=ExplicitPayload(content=items))])[0]
    response.headers["ETag"] = f'"{made.meta.version}"'
    return made
