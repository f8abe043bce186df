"""`/v1/memory/cubes`: create, read, list, change, delete, versions, rollback, merge."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Header, Query, Response

from memos_vllm.api.connected import ends_with_client
from memos_vllm.api.models import (
    CUBE_EXAMPLE,
    ERRORS,
    Batch,
    Caller,
    Cubes,
    Deleted,
    Merge,
    Moment,
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
from memos_vllm.as_of import as_of_parameter
from memos_vllm.cube.ids import canonical_json, sha256, to_us
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
from memos_vllm.governance.principal import decoded
from memos_vllm.learning import lifecycle
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


@router.post("", status_code=201, dependencies=[ends_with_client])
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


@router.post("/batch", status_code=201, dependencies=[ends_with_client])
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
    as_of: Moment = None,
) -> Page:
    """Headers of the cubes that you may read, newest first; with `as_of`, as they were then."""
    where = CubeFilter(
        decoded(person) if person else None, shared, state, placement, tag, name_prefix
    )
    if (moment := as_of_parameter(as_of)) is not None:
        then, following = system.past.page(caller, to_us(moment), where, cursor, limit)
        return Page(cubes=then, next_cursor=following)
    headers, following = system.views.page(caller, where, cursor, limit)
    return Page(cubes=headers, next_cursor=following)


@router.get("/{ref}")
def get_cube(
    system: System,
    caller: Caller,
    response: Response,
    ref: Ref,
    version: Word = None,
    as_of: Moment = None,
) -> MemCube:
    """A cube with its payload; `version` reads an older one, `as_of` the one of a past moment."""
    if (moment := as_of_parameter(as_of)) is not None:
        if version is not None:
            raise BadRequest("give `version` or `as_of`, not both", param="as_of")
        return system.past.get(caller, ref, to_us(moment))
    cube = system.vault.get(caller, ref, version)
    cube.meta.usage.kv = cube_kv(system, caller, cube.meta.id).usage
    return _tagged(response, cube)


@router.patch("/{ref}", dependencies=[ends_with_client])
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
        Query(
            description="false: mark the cubes derived from it as `stale` instead of deleting them"
        ),
    ] = True,
    if_match: IfMatch = None,
) -> Deleted:
    """Delete a cube with all versions, items, vectors, files, and what was made from it.

    An adapter that learnt other cubes, too, is trained again from those. The audit log keeps a record.
    """
    deletion, settled = system.delete(caller, ref, _version_of(if_match), cascade=cascade)
    return Deleted(
        id=deletion.cube,
        index_pending=not settled,
        stale=[] if cascade else deletion.stale,
        deleted_too=[orphan.cube for orphan in deletion.gone],
        jobs=deletion.jobs,
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
    detail = {"person": cube.meta.person or "", "version": cube.meta.version}
    system.audit.note(caller, "cube.export", cube.meta.id, detail)
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
