"""Orders of the scheduler side to the worker side about LMCache, for each engine step."""

from __future__ import annotations

import dataclasses

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorMetadata,
    KVConnectorWorkerMetadata,
)


@dataclasses.dataclass(frozen=True, slots=True)
class Transfer:
    """Tokens `start:end` of a request, whole chunks, between its blocks and LMCache."""

    request_id: str
    salt: str
    tokens: tuple[int, ...]
    """From the start of the prompt: LMCache hashes all tokens up to a chunk's end."""
    block_ids: tuple[int, ...]
    """Of `start:end`."""
    start: int
    end: int
    skip: int = 0
    """Tokens from `start` on in the engine's prefix cache: shared blocks, which are not written."""

    @property
    def written(self) -> tuple[int, ...]:
        """The blocks that a load writes."""
        return self.block_ids[len(self.block_ids) * self.skip // (self.end - self.start) :]


@dataclasses.dataclass(slots=True)
class StepTransfers(KVConnectorMetadata):
    loads: list[Transfer] = dataclasses.field(default_factory=list)
    saves: list[Transfer] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(slots=True)
class FailedSaves(KVConnectorWorkerMetadata):
    """Report of the worker side: LMCache lacks a part of these requests' KV."""

    request_ids: set[str]

    def aggregate(self, other: KVConnectorWorkerMetadata) -> KVConnectorWorkerMetadata:
        assert isinstance(other, FailedSaves)
        return FailedSaves(self.request_ids | other.request_ids)
