"""What the scheduler side tells the worker side about LMCache, each engine step."""

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
    """From the start of the prompt: LMCache names a chunk by all tokens up to its end."""
    block_ids: tuple[int, ...]
    """Of `start:end`."""
    start: int
    end: int
    skip: int = 0
    """Tokens from `start` on that the engine has: they may be others' blocks, and are not written."""

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
    """What the worker side tells back: LMCache does not have all of these requests' KV."""

    request_ids: set[str]

    def aggregate(self, other: KVConnectorWorkerMetadata) -> KVConnectorWorkerMetadata:
        assert isinstance(other, FailedSaves)
        return FailedSaves(self.request_ids | other.request_ids)
