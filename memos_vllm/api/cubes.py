"""`/v1/memory/cubes`: create, read, list, change, delete, versions, rollback, merge."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Header, Query, Response

from memos_vllm.api.models import (
    CUBE_EXAMPLE,
    ERRORS,
    Batch,
    Caller,
    Cubes,
    Deleted,
    Merge,
    Page,
    Ref,
    Rollback,
    System,
    VersionRef,
    Versions,
    Word,
)
from memos_vllm.api.strict import StrictRoute
from memos_vllm.api.usage import cube_kv
from memos_vllm.cube.ids import canonical_json, sha256
from memos_vllm.cube.model import (
    CubePatch,
    Kind,
    MemCube,
    NewCube,
    Placement,
    State,
    VersionDiff,
)
from memos_vllm.errors import BadRequest, TooLarge, Unprocessable
from memos_vllm.learning import lifecycle
from memos_vllm.transforms import submit
from memos_vllm.vault.idempotency import IdempotencyKey
from memos_vllm.vault.views import CubeFilter

router = APIRouter(
    route_class=StrictRoute, prefix="/v1/memory/cubes", tags=["memory cubes"], responses=ERRORS
)

IfMatch = Annotated[
    str | None,
    Header(description="expected current version (ETag); another one is a 409", max_length=200),
]
IdempotencyHeader = Annotated[
    str | None,
    Header(
        description="a repeated key and body return the first reply",
        max_length=200,
        pattern=r"^[!-~]+$",
    ),
]


@router.post("", status_code=201)
def create_cube(
    system: System,
    caller: Caller,
    response: Response,
    cube: Annotated[NewCube, Body(examples=[CUBE_EXAMPLE])],
    idempotency_key: IdempotencyHeader = None,
) -> MemCube:
    """Store a cube. Its text is split into passages, embedded, and searchable when this returns."""
    made = system.create(caller, [cube], _idempotency(idempotency_key, [cube]))[0]
    return _tagged(response, made)


@router.post("/batch", status_code=201)
def create_cubes(
    system: System, caller: Caller, batch: Batch, idempotency_key: IdempotencyHeader = None
) -> Cubes:
    """Store all of these cubes, or none."""
    limit = system.config.limits.batch_cubes
    if len(batch.cubes) > limit:
        raise TooLarge(f"{len(batch.cubes)} cubes in one batch; at most {limit}", param="cubes")
    return Cubes(
        cubes=system.create(caller, batch.cubes, _idempotency(idempotency_key, batch.cubes))
    )


@router.get("")
def list_cubes(
    system: System,
    caller: Caller,
    person: Word = None,
    shared: bool | None = None,
    state: State | None = None,
    placement: Placement | None = None,
    tag: Word = None,
    name_prefix: Word = None,
    cursor: Word = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Page:
    """Headers of the cubes that you may read, newest first."""
    where = CubeFilter(person, shared, state, placement, tag, name_prefix)
    headers, following = system.views.page(caller, where, cursor, limit)
    return Page(cubes=headers, next_cursor=following)


@router.get("/{ref}")
def get_cube(
    system: System,
    caller: Caller,
    response: Response,
    ref: Ref,
    version: Word = None,
) -> MemCube:
    """A cube with its payload; `version` reads an older one."""
    cube = system.vault.get(caller, ref, version)
    cube.meta.usage.kv = cube_kv(system, caller, cube.meta.id).usage
    return _tagged(response, cube)


@router.patch("/{ref}")
def update_cube(
    system: System,
    caller: Caller,
    response: Response,
    ref: Ref,
    patch: Annotated[
        CubePatch, Body(examples=[{"append": [{"type": "fact", "text": "She carries an EpiPen."}]}])
    ],
    if_match: IfMatch = None,
) -> MemCube:
    """Create a new version: omitted fields keep their values."""
    return _tagged(response, system.update(caller, ref, patch, _version_of(if_match)))


@router.delete("/{ref}")
def delete_cube(
    system: System,
    caller: Caller,
    ref: Ref,
    cascade: Annotated[
        bool,
        Query(description="also delete the cubes derived from it; else they are marked `stale`"),
    ] = False,
    if_match: IfMatch = None,
) -> Deleted:
    """Delete a cube with all versions, items, vectors and files. The audit log keeps a record.

    With `cascade`, an adapter that learnt other cubes, too, is trained again from those.
    """
    deletion, settled = system.delete(caller, ref, _version_of(if_match), cascade)
    jobs = [submit.again(system, caller, orphan) for orphan in deletion.gone]
    return Deleted(
        id=deletion.cube,
        index_pending=not settled,
        stale=[] if cascade else deletion.stale,
        deleted_too=[orphan.cube for orphan in deletion.gone],
        jobs=[job.id for job in jobs if job is not None],
    )


@router.get("/{ref}/versions")
def list_versions(system: System, caller: Caller, ref: Ref) -> Versions:
    """All versions, newest first, each with its parent, author and provenance."""
    return Versions(versions=system.vault.history(caller, ref))


@router.get("/{ref}/versions/{version}")
def get_version(
    system: System, caller: Caller, response: Response, ref: Ref, version: VersionRef
) -> MemCube:
    """One version of a cube."""
    return _tagged(response, system.vault.get(caller, ref, version))


@router.get("/{ref}/diff")
def diff_versions(
    system: System,
    caller: Caller,
    ref: Ref,
    older: Annotated[str, Query(max_length=64, pattern=r"^[^\x00]+$")],
    newer: Word = None,
) -> VersionDiff:
    """Items added and removed between `older` and `newer` (default: the current version)."""
    return system.vault.diff(caller, ref, older, newer)


@router.post("/{ref}/rollback")
def rollback_cube(
    system: System,
    caller: Caller,
    response: Response,
    ref: Ref,
    target: Rollback,
    if_match: IfMatch = None,
) -> MemCube:
    """Create a new version with the contents of an older one."""
    return _tagged(response, system.rollback(caller, ref, target.version, _version_of(if_match)))


@router.get(
    "/{ref}/adapter",
    response_class=Response,
    responses={200: {"content": {"application/octet-stream": {}}}},
)
def get_adapter(system: System, caller: Caller, ref: Ref, version: Word = None) -> Response:
    """A parametric cube's weights, as a safetensors file with the configuration in its metadata."""
    cube = system.vault.get(caller, ref, version)
    if cube.meta.kind is not Kind.PARAMETRIC:
        raise Unprocessable(f"{ref!r} is a cube of text and has no adapter")
    data = system.vault.file(caller, ref, cube.meta.version)
    return Response(data, media_type="application/octet-stream")


def _idempotency(key: str | None, cubes: list[NewCube]) -> IdempotencyKey | None:
    if key is None:
        return None
    return IdempotencyKey(
        key, sha256(canonical_json([cube.model_dump(mode="json") for cube in cubes]))
    )


def _version_of(if_match: str | None) -> str | None:
    if if_match is None or if_match.strip() == "*":
        return None
    version = if_match.strip().removeprefix("W/").strip('"')
    if not version:
        raise BadRequest("If-Match holds no version", param="If-Match")
    return version


def _tagged(response: Response, cube: MemCube) -> MemCube:
    response.headers["ETag"] = f'"{cube.meta.version}"'
    return cube


@router.post("/{ref}/merge")
def merge_cube(system: System, caller: Caller, ref: Ref, request: Merge) -> MemCube:
    """Merge a cube's items into another cube of its owner; its state becomes `merged`."""
    return lifecycle.merge(system, caller, ref, request.into)
