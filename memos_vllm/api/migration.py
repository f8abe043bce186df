"""`/v1/memory/people/{person}/export` and `…/import`: a whole person from server to server."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from pydantic import Field
from starlette.requests import ClientDisconnect

from memos_vllm.api.models import ERRORS, Caller, System
from memos_vllm.api.models import Body as Strict
from memos_vllm.api.tokens import Person
from memos_vllm.errors import BadRequest, MemosError, Overloaded
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.importers.any_file import AUTO, kind_of, source_of
from memos_vllm.importers.files import content_sha256
from memos_vllm.importers.person.export import FORMAT as PERSON
from memos_vllm.importers.person.export import PersonExport
from memos_vllm.importers.person.restore import PersonImport
from memos_vllm.importers.position import ImportPosition
from memos_vllm.importers.skipped import Skipped
from memos_vllm.importers.write import run_import
from memos_vllm.learning.imported import ImportedTurns
from memos_vllm.system import MemorySystem

router = APIRouter(prefix="/v1/memory/people", tags=["migration"], responses=ERRORS)

_LINES = "application/x-ndjson"
_AT_A_TIME = threading.BoundedSemaphore(2)
"""Imports in this process: others get a 503 and come again."""
_BODY: dict[str, Any] = {
    "required": True,
    "description": "the file as it is: an archive of `…/export`, an export of ChatGPT or Claude (zip or "
    "JSON), a dump of Mem0 or MemOS (JSON)",
    "content": {
        "application/octet-stream": {
            "schema": {"type": "string", "format": "binary"},
            "example": '[{"id": "m1", "memory": "Likes tea", "user_id": "alice", "hash": "x"}]',
        }
    },
}
_ARCHIVE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "the archive, one record a line; the last one has its checksum",
        "content": {
            _LINES: {
                "schema": {"type": "string"},
                "example": '{"format": "memos-person", "version": 1, "person": "alice"}\n',
            }
        },
    }
}


class LeftOut(Strict):
    what: str
    reason: str
    count: int
    names: list[str] = Field(description="the first 20")


class ImportReport(Strict):
    format: str
    created: int = Field(description="cubes that were made")
    extended: int = Field(0, description="cubes that got what they lacked, of a file that grew")
    held: int = Field(description="cubes that were stored already")
    turns: int = Field(0, description="turns that become memory in the background")
    renamed: dict[str, str] = Field(
        default_factory=dict, description="names that were taken, and the new ones"
    )
    left_out: list[LeftOut] = Field(description="what of the file is not imported, and why")


@router.get("/{person:path}/export", response_class=StreamingResponse, responses=_ARCHIVE)
def export_person(system: System, caller: Caller, person: Person) -> StreamingResponse:
    """A whole person as JSON lines: profile, facts, conversations, documents and adapters with history.

    Needs an `admin` key. KV and vectors stay out: the other server computes them. A stream that breaks off
    has no last line, and is refused by the import.
    """
    export = PersonExport(system, caller.as_person(person))
    headers = {"content-disposition": 'attachment; filename="person.jsonl"'}
    return StreamingResponse(export.lines(), media_type=_LINES, headers=headers)


@router.post("/{person:path}/import", openapi_extra={"requestBody": _BODY})
async def import_person(
    request: Request,
    system: System,
    caller: Caller,
    person: Person,
    format: Annotated[  # noqa: A002  # name of the parameter
        str, Query(max_length=32, description="kind of the file; `auto`: by its content")
    ] = AUTO,
) -> ImportReport:
    """Import a file as memory of this person. Needs an `admin` key.

    The second import of a file changes nothing; one that was interrupted is sent again. The body is limited
    by `http.body_bytes`: larger files are imported with `memos import`.
    """
    caller.require(Role.ADMIN)
    who = caller.as_person(person)
    if not _AT_A_TIME.acquire(blocking=False):
        raise Overloaded("other imports run", 10.0)
    try:
        with _spool(system) as path:
            with path.open("wb") as file:
                try:
                    async for chunk in request.stream():
                        await run_in_threadpool(file.write, chunk)
                except ClientDisconnect as error:
                    raise BadRequest("the body ended before its end") from error
            return await run_in_threadpool(_import, system, who, path, format)
    finally:
        _AT_A_TIME.release()


def _import(system: MemorySystem, who: Principal, path: Path, wanted: str) -> ImportReport:
    try:
        return _import_file(system, who, path, wanted)
    except MemosError as error:
        error.message = error.message.replace(str(path), "the body")
        raise


def _import_file(system: MemorySystem, who: Principal, path: Path, wanted: str) -> ImportReport:
    kind = kind_of(path, wanted)
    if kind == PERSON:
        return _import_archive(system, who, path)
    source = source_of(system, path, kind, who.person, who.tenant)
    identity = {"tenant": who.tenant, "person": who.person, "format": source.format}
    position = ImportPosition.load(path.parent, path, content_sha256(path), identity)
    learner = ImportedTurns(system, f"import:{source.format}")
    run_import(system, who, source, position, learner=learner)
    detail = {"person": who.person, "cubes": position.created, "extended": position.extended}
    system.audit.note(who, "person.import", "person", detail)
    return ImportReport(
        format=source.format,
        created=position.created,
        extended=position.extended,
        held=position.skipped,
        left_out=_left_out(source.skipped),
    )


def _import_archive(system: MemorySystem, who: Principal, path: Path) -> ImportReport:
    outcome = PersonImport(system, who, path, who.person).run()
    return ImportReport(
        format=PERSON,
        created=outcome.created,
        held=outcome.held,
        turns=outcome.turns,
        renamed=outcome.renamed,
        left_out=_left_out(outcome.skipped),
    )


def _left_out(skipped: Skipped) -> list[LeftOut]:
    return [LeftOut.model_validate(each) for each in skipped.tree()]


@contextlib.contextmanager
def _spool(system: MemorySystem) -> Iterator[Path]:
    """A file in a folder below `home`, readable by its owner alone, removed afterwards.

    Its name is always the same: cubes of some formats are named by their file.
    """
    folder = system.config.root / "imports"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".upload-") as made:
        yield Path(made) / "upload"
