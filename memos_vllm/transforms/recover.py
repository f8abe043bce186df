"""What jobs need of kept KV: built, handed to the process that trains, and traced back to its text."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from memos_vllm.activation.names import SegmentName
from memos_vllm.activation.tombstones import short
from memos_vllm.cube.ids import CubeVersion
from memos_vllm.cube.model import MemCube
from memos_vllm.errors import NotFound, Unprocessable
from memos_vllm.governance.principal import Principal
from memos_vllm.parametric.training.order import Context
from memos_vllm.transforms.sources import items_of

if TYPE_CHECKING:
    from memos_vllm.system import MemorySystem


class KeptKV(Protocol):
    """A running engine with a KV tier."""

    def build(self, principal: Principal, cube: str) -> None:
        """Raises Unprocessable, SegmentsUnavailable."""
        ...

    def export(self, principal: Principal, cubes: Sequence[str], file: Path) -> Context:
        """The KV of a prompt that begins with these cubes, built if it is not there, as one file.

        Raises:
            Unprocessable, SegmentsUnavailable, DamagedPayload
        """
        ...

    def digest(self, cube: MemCube) -> str:
        """Of the tokens that the cube's text is at the head of a prompt."""
        ...


@dataclasses.dataclass(frozen=True)
class Segment:
    """A kept segment, as far as its own header tells."""

    name: SegmentName
    digest: str
    """Of its own tokens."""
    cubes: tuple[str, ...]
    """`id@sequence` of what stands in it or before it."""

    @property
    def own(self) -> tuple[str, int]:
        """The cube that stands last, and the sequence of its version."""
        version = CubeVersion.parse(self.cubes[-1])
        return version.cube, version.sequence


def find_segment(system: MemorySystem, principal: Principal, key: str) -> Segment:
    """A segment that serves the principal, by its key.

    Raises:
        NotFound: there is none, or it is somebody else's.
        DamagedPayload
        Unprocessable: nothing tells which text it was computed from.
    """
    from memos_vllm.activation import files  # torch: the command line starts without it

    scopes = (system.scopes.person(principal), system.scopes.tenant(principal))
    mine = {short(scope) for scope in scopes}
    for name in system.segments.named(key):
        if name.scope not in mine:
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
                "those a digest of the tokens is kept, never the text"
            )
        return Segment(name, about["digest"], cubes)
    raise NotFound(f"there is no kept KV {key!r} here", param="key")


def text_of_segment(
    system: MemorySystem, principal: Principal, segment: Segment, kept: KeptKV
) -> MemCube:
    """The version of a cube that a segment was computed from, by its provenance; the digest of the
    segment's tokens proves it.

    Raises:
        NotFound, DamagedPayload
        Unprocessable: it holds something else than the cube's text.
    """
    cube, sequence = segment.own
    version = next(
        (v for v in system.vault.history(principal, cube) if v.sequence == sequence), None
    )
    if version is None:
        raise Unprocessable(
            f"version {sequence} of {cube}, of which this KV is, is not there any more"
        )
    found = system.vault.get(principal, cube, version.id)
    if not items_of(found):
        raise Unprocessable("this KV was computed under an adapter: it holds no text of a cube")
    if kept.digest(found) != segment.digest:
        raise Unprocessable(
            "this KV is of what was said behind the cube, or of the cube under another name: its "
            "tokens are not those of the cube's text, and no other text is kept of it"
        )
    return found
