"""Publish cubes as a version of a bundle, and sign the bundle's index anew."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from memos_vllm.cube.ids import canonical_json, now_us, to_datetime
from memos_vllm.cube.model import Kind, MemCube, State
from memos_vllm.errors import BadRequest, Conflict, NotFound, Unprocessable
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.memstore.model import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    ARTIFACT,
    CONFIG,
    CUBE,
    EMPTY,
    EMPTY_BYTES,
    INDEX,
    INDEX_TAG,
    ITEMS,
    MOST_CUBES,
    MOST_QUESTIONS,
    PUBLISHER,
    BundleConfig,
    BundledCube,
    Descriptor,
    Index,
    Manifest,
    check_name,
    check_version,
    descriptor,
    digest_of,
)
from memos_vllm.memstore.package import read_index
from memos_vllm.memstore.registry import Registry
from memos_vllm.memstore.signing import PublisherKey
from memos_vllm.parametric.training.order import Question

if TYPE_CHECKING:
    from memos_vllm.system import MemorySystem

VALID = timedelta(days=90)
"""How long an index is valid, unless its publisher says otherwise: so long can a registry hide a newer one."""
_SHIPPED = frozenset({State.ACTIVATED, State.GENERATED, State.MERGED, State.FROZEN})


@dataclasses.dataclass(frozen=True, slots=True)
class About:
    """What a publisher says about a version; the forms are those of `BundleConfig`."""

    name: str
    version: str
    licence: str
    description: str = ""
    authors: Sequence[str] = ()
    terms: str | None = None
    price: str | None = None
    languages: Sequence[str] = ()
    provenance: Sequence[str] = ()


def publish(
    system: MemorySystem,
    principal: Principal,
    registry: Registry,
    key: PublisherKey,
    about: About,
    refs: Sequence[str],
    valid: timedelta = VALID,
    exams: Mapping[str, Sequence[Question]] | None = None,
) -> str:
    """Publish shared cubes as a version; returns the digest of its manifest.

    Args:
        exams: adapter, as in `refs` → questions that subscribers ask before they use it; without any, those that
            its own training was given.
    Raises:
        BadRequest: a field of `about`, a cube without a name, or an exam of what is no adapter.
        Conflict: this version is published with other content: versions do not change.
        Forbidden: another publisher's bundle of that name is in the registry.
        NotFound, RegistryUnavailable
    """
    principal.require(Role.ADMIN)
    check_name(about.name)
    version = check_version(about.version)
    cubes = [_shared(system, principal, ref) for ref in refs]
    if not 0 < len(cubes) <= MOST_CUBES:
        raise BadRequest(f"a bundle has 1 to {MOST_CUBES} cubes", param="cubes")
    known = _known_index(registry, key, about.name)
    layers = [_layers(cube, about.name) for cube in cubes]
    asked = _exams(system, principal, dict(zip(refs, cubes, strict=True)), exams or {})
    config = _config(about, version, cubes, asked)
    manifest = Manifest(
        artifact_type=ARTIFACT,
        config=descriptor(config, CONFIG),
        layers=[each for made in layers for each, _ in made],
    )
    data = _json(manifest)
    digest = digest_of(data)
    if known is not None and known.versions.get(version, digest) != digest:
        raise Conflict(
            f"{about.name} {version} is published with other content: publish a higher version",
            param="version",
        )
    for blob in [config, *(blob for made in layers for _, blob in made)]:
        registry.put_blob(about.name, blob)
    registry.put_manifest(about.name, version, data)
    versions = {**(known.versions if known is not None else {}), version: digest}
    _sign(registry, key, _next(known, about.name, valid, versions=versions))
    system.audit.note(
        principal, "store.publish", about.name, {"version": version, "digest": digest}
    )
    return digest


def sign_again(
    registry: Registry,
    key: PublisherKey,
    name: str,
    valid: timedelta = VALID,
    withdraw: tuple[str, str] | None = None,
) -> Index:
    """Sign an index anew, so that it stays valid.

    Args:
        withdraw: (version, why): not to install any more.
    Raises:
        NotFound: no such bundle or version is published.
        Forbidden: it is another publisher's.
    """
    known = _known_index(registry, key, check_name(name))
    if known is None:
        raise NotFound(f"no bundle {name} is published there", param="name")
    gone = dict(known.withdrawn)
    if withdraw is not None:
        version, why = withdraw
        if (version := check_version(version)) not in known.versions:
            raise NotFound(f"{name} has no version {version}", param="version")
        gone[version] = why
    index = _next(known, name, valid, versions=known.versions, withdrawn=gone)
    _sign(registry, key, index)
    return index


def _known_index(registry: Registry, key: PublisherKey, name: str) -> Index | None:
    try:
        return read_index(registry, name, [key.public])[0]
    except NotFound:
        return None


def _next(known: Index | None, name: str, valid: timedelta, **changed: Any) -> Index:
    now = to_datetime(now_us())
    try:
        return Index(
            name=name,
            serial=known.serial + 1 if known is not None else 1,
            issued=now,
            expires=now + valid,
            **{"withdrawn": known.withdrawn if known is not None else {}, **changed},
        )
    except ValidationError as error:
        raise BadRequest(error.errors()[0]["msg"]) from error


def _sign(registry: Registry, key: PublisherKey, index: Index) -> None:
    signed = key.sign(_json(index), INDEX)
    registry.put_blob(index.name, EMPTY_BYTES)
    registry.put_blob(index.name, signed)
    manifest = Manifest(
        artifact_type=INDEX,
        config=descriptor(EMPTY_BYTES, EMPTY),
        layers=[descriptor(signed, INDEX)],
        annotations={PUBLISHER: key.public.hex},
    )
    registry.put_manifest(index.name, INDEX_TAG, _json(manifest))


def _shared(system: MemorySystem, principal: Principal, ref: str) -> MemCube:
    cube = system.portable(principal, ref)
    if cube.meta.person:
        raise BadRequest(
            f"cube {ref} is a person's: only shared memory is published", param="cubes"
        )
    if not cube.meta.name:
        raise BadRequest(f"cube {ref} has no name: give it one first", param="cubes")
    if cube.meta.state not in _SHIPPED:
        raise Unprocessable(f"cube {ref} is {cube.meta.state}", param="cubes")
    return cube


def _exams(
    system: MemorySystem,
    principal: Principal,
    cubes: Mapping[str, MemCube],
    given: Mapping[str, Sequence[Question]],
) -> dict[str, list[Question]]:
    """Questions to each adapter, by its id."""
    for ref, questions in given.items():
        if ref not in cubes or cubes[ref].meta.kind is not Kind.PARAMETRIC:
            raise BadRequest(f"{ref} is no adapter of this bundle: it has no exam", param="exam")
        if len(questions) > MOST_QUESTIONS:
            raise BadRequest(f"an exam has at most {MOST_QUESTIONS} questions", param="exam")
    found = {}
    for ref, cube in cubes.items():
        if cube.meta.kind is Kind.PARAMETRIC:
            own = _asked_in_training(system, principal, cube)
            found[cube.meta.id] = list(given.get(ref, own))[:MOST_QUESTIONS]
    return found


def _asked_in_training(system: MemorySystem, principal: Principal, cube: MemCube) -> list[Question]:
    """Questions that were given to the job which trained an adapter; empty: none, or the job is forgotten."""
    for job in cube.meta.provenance.message_ids[:1]:
        with contextlib.suppress(NotFound):
            asked = system.transforms.get(principal, job).request.get("exam", [])
            return [Question.model_validate(each) for each in asked]
    return []


def _config(
    about: About,
    version: str,
    cubes: Sequence[MemCube],
    exams: Mapping[str, list[Question]],
) -> bytes:
    newest = max(cube.meta.updated for cube in cubes)
    fields = dataclasses.asdict(about) | {"version": version, "created": _whole_second(newest)}
    try:
        return _json(
            BundleConfig(**fields, cubes=[_described(cube, about.name, exams) for cube in cubes])
        )
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise BadRequest(f"`{where}`: {problem['msg']}", param=where) from error


def _whole_second(moment: datetime) -> datetime:
    return moment.replace(microsecond=0)


def _described(cube: MemCube, bundle: str, exams: Mapping[str, list[Question]]) -> BundledCube:
    meta = cube.meta
    return BundledCube(
        name=_local_name(cube, bundle),
        kind=meta.kind,  # type: ignore[arg-type]  # activation memory is no cube of the vault
        placement=meta.placement,
        priority=meta.priority,
        tags=meta.tags,
        items=len(cube.items),
        base_model=meta.model_fingerprint if meta.kind is Kind.PARAMETRIC else None,
        exam=exams.get(meta.id, []),
    )


def _local_name(cube: MemCube, bundle: str) -> str:
    """Name of a cube in its bundle: without the bundle's own name in front of it."""
    return (cube.meta.name or "").removeprefix(f"{bundle}:")


def _layers(cube: MemCube, bundle: str) -> list[tuple[Descriptor, bytes]]:
    named = {CUBE: _local_name(cube, bundle)}
    if cube.meta.kind is Kind.EXPLICIT:
        lines = [
            canonical_json(item.model_dump(mode="json", exclude={"id"}, exclude_defaults=True))
            for item in cube.items
        ]
        blobs = {ITEMS: b"".join(line + b"\n" for line in lines)}
    else:
        content: Any = cube.payload.content
        blobs = {
            ADAPTER_CONFIG: canonical_json(content["adapter_config"]),
            ADAPTER_WEIGHTS: base64.b64decode(content["adapter_model"]),
        }
    return [(descriptor(blob, media, **named), blob) for media, blob in blobs.items()]


def _json(model: Any) -> bytes:
    return json.dumps(model.model_dump(mode="json", exclude_none=True), ensure_ascii=False).encode()
