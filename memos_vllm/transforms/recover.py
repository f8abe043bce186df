"""Stored KV for transforms: build it, export it to the training process, trace it back to its text."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from memos_vllm.activation.names import SegmentName
from memos_vllm.activation.tombstones import short
from memos_vllm.cube.ids import CubeVersion
from memos_vllm.cube.model import ExplicitPayload, MemCube, NewCube, NewMeta, Provenance
from memos_vllm.errors import NotFound, Unprocessable
from memos_vllm.governance.principal import Principal
from memos_vllm.parametric.training.order import Context, Report
from memos_vllm.transforms.requests import Recover

if TYPE_CHECKING:
    from memos_vllm.system import MemorySystem


class KeptKV(Protocol):
    """A running engine with a KV tier."""

    def build(self, principal: Principal, cube: str) -> None:
        """Compute and store a cube's KV. Raises Unprocessable, SegmentsUnavailable."""
        ...

    def export(self, principal: Principal, cubes: Sequence[str], file: Path) -> Context:
        """Write the KV of a prompt that begins with these cubes to a file, computing what is missing.

        Raises:
            Unprocessable, SegmentsUnavailable, DamagedPayload
        """
        ...

    def keep_compact(self, principal: Principal, cube: MemCube, file: Path, about: Report) -> None:
        """Store a compact of the cube's text, in place of an older one.

        Args:
            file: as the process wrote it (`compacts.process`).
            about: what was measured.

        Raises:
            Unprocessable: it does not fit the engine, or the cube is gone or has changed.
            SegmentsUnavailable: it cannot be written.
        """
        ...

    def digest(self, cube: MemCube) -> str:
        """Digest of the tokens of the cube's text at the head of a prompt."""
        ...


@dataclasses.dataclass(frozen=True)
class Segment:
    """A stored KV segment, described by its header."""

    name: SegmentName
    digest: str
    """Of its own tokens."""
    cubes: tuple[str, ...]
    """`id@sequence` of the cubes in it and before it."""

    @property
    def own(self) -> tuple[str, int]:
        """Its last cube, and the sequence of that cube's version."""
        version = CubeVersion.parse(self.cubes[-1])
        return version.cube, version.sequence


def find_segment(system: MemorySystem, principal: Principal, key: str) -> Segment:
    """Segment of the principal's scopes, by its key.

    Raises:
        NotFound: it does not exist, or belongs to another scope.
        DamagedPayload
        Unprocessable: its header names no cube.
    """
    from memos_vllm.activation import files  # torch: the command line starts without it

    scopes = (system.scopes.person(principal), system.scopes.tenant(principal))
    allowed = {short(scope) for scope in scopes}
    for name in system.segments.named(key):
        if name.scope not in allowed:
            continue
        try:
            with files.SegmentReader(system.segments.disk.path(str(name))) as reader:
                about = reader.metadata
        except OSError as error:
            raise NotFound(f"there is no kept KV {key!r} here", param="key") from error
        cubes = tuple(about["cubes"].split())
        if not cubes:
            raise Unprocessable(
                "no cube stands in this KV: it is of a template's head or of a conversation, and of "
                "those a digest of the tokens is stored, never the text"
            )
        return Segment(name, about["digest"], cubes)
    raise NotFound(f"there is no kept KV {key!r} here", param="key")


def source_of(system: MemorySystem, principal: Principal, key: str, kept: KeptKV) -> MemCube:
    """Version of a cube from which a segment was computed, by the segment's key.

    Raises the errors of `find_segment` and `text_of_segment`.
    """
    return text_of_segment(system, principal, find_segment(system, principal, key), kept)


def recovered(source: MemCube, spec: Recover, provenance: Provenance) -> NewCube:
    """The cube of text that is made of stored KV."""
    meta = NewMeta(
        name=spec.name,
        person=source.meta.person,
        shared=source.meta.person is None,
        state=spec.state,
        access=source.meta.access,
        provenance=provenance,
        tags=["recovered"],
    )
    return NewCube(meta=meta, payload=ExplicitPayload(content=source.items))


def text_of_segment(
    system: MemorySystem, principal: Principal, segment: Segment, kept: KeptKV
) -> MemCube:
    """Version of a cube from which a segment was computed, proven by the digest of its tokens.

    Raises:
        NotFound, DamagedPayload
        Unprocessable: the segment holds other tokens than the cube's text.
    """
    cube, sequence = segment.own
    version = next(
        (v for v in system.vault.history(principal, cube) if v.sequence == sequence), None
    )
    if version is None:
        raise Unprocessable(
            f"version {sequence} of {cube}, from which this KV was computed, does not exist any more"
        )
    found = system.vault.get(principal, cube, version.id)
    if not found.items:
        raise Unprocessable("this KV was computed under an adapter: it holds no text of a cube")
    if kept.digest(found) != segment.digest:
        raise Unprocessable(
            "this KV is of a conversation after the cube, or of the cube under another name: its "
            "tokens are not those of the cube's text, and no other text of it is stored"
        )
    return found
