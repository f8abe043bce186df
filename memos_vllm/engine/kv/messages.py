"""Orders of the connector's scheduler side to its worker side, for each engine step."""

from __future__ import annotations

import dataclasses

from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorMetadata

from memos_vllm.activation.names import SegmentName
from memos_vllm.engine.kv.states import When


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """One segment of a request: tokens `start:end`."""

    name: SegmentName
    start: int
    end: int
    cubes: tuple[str, ...] = ()
    digest: str = ""
    """Of the segment's own tokens."""
    scope: str = ""
    """Digest of the whole scope."""
    generation: int = 0
    """Of the scope, when the segment was planned."""
    shift: int = 0
    """Its position here minus the one at which it was computed; not 0: the KV is approximate."""


@dataclasses.dataclass(frozen=True, slots=True)
class Load:
    request_id: str
    block_ids: tuple[int, ...]
    start: int
    """Tokens before it are in the engine's prefix cache."""
    end: int
    pieces: tuple[Piece, ...]
    when: When
    """IN_STEP or BETWEEN_STEPS."""


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
    """Prompt tokens that the step computes."""
