"""What the connector's scheduler side tells its worker side, each engine step."""

from __future__ import annotations

import dataclasses

from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorMetadata

from memos_vllm.activation.store import SegmentName


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """One segment's place in a request: tokens `start:end`."""

    name: SegmentName
    start: int
    end: int
    cubes: tuple[str, ...] = ()
    digest: str = ""
    """Of the segment's own tokens."""
    scope: str = ""
    """Digest of the whole scope."""
    generation: int = 0
    """Of the scope, when it was planned."""
    shift: int = 0
    """How many tokens later it stands here than where it was computed; then it is approximate."""


@dataclasses.dataclass(frozen=True, slots=True)
class Load:
    request_id: str
    block_ids: tuple[int, ...]
    start: int
    """Tokens before it are in the engine's own prefix cache."""
    end: int
    pieces: tuple[Piece, ...]
    at_once: bool
    """The step that this comes with computes on what is loaded."""


@dataclasses.dataclass(frozen=True, slots=True)
class Save:
    request_id: str
    block_ids: tuple[int, ...]
    pieces: tuple[Piece, ...]


@dataclasses.dataclass(slots=True)
class StepOrders(KVConnectorMetadata):
    loads: list[Load] = dataclasses.field(default_factory=list)
    saves: list[Save] = dataclasses.field(default_factory=list)
    prefill_tokens: int = 0
    """Tokens of prompts that the step computes."""
