"""Connections to LMCache for this engine, and the names of its objects.

This module and `client` are the only ones that know LMCache's Python API.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from memos_vllm.config.kv import KVConfig
from memos_vllm.engine.lmcache.client import LookupClient, TransferClient, foreign

_SERVERS = 1


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """Configuration of the connections of both sides of the engine."""

    vllm_config: Any
    kv_cache_config: Any
    config: KVConfig
    model: str
    """Name of this model's KV in LMCache."""

    @property
    def block_size(self) -> int:
        size: int = self.kv_cache_config.kv_cache_groups[0].kv_cache_spec.block_size
        return size

    def connect_scheduler(self) -> LookupClient:
        """Raises LMCacheError: no server, or a chunk that is not made of whole blocks."""
        with foreign("connect"):
            from lmcache.integration.vllm import vllm_multi_process_adapter as lmcache

            adapter = lmcache.LMCacheMPSchedulerAdapter(
                server_urls=[self.config.lmcache_url], **self._common()
            )
            adapter._ensure_heartbeat_started()  # LMCache starts it with the first request
        return LookupClient(adapter)

    def connect_worker(self, kv_caches: Mapping[str, Any]) -> TransferClient:
        """Connect a worker and register its KV cache. Raises LMCacheError."""
        with foreign("connect"), contextlib.ExitStack() as on_error:
            from lmcache.integration.vllm.kv_cache_groups import (
                create_engine_group_infos_from_vllm,
            )
            from lmcache.integration.vllm.utils import vllm_layout_hints
            from lmcache.integration.vllm.vllm_multi_process_adapter import LMCacheMPWorkerAdapter

            adapter = LMCacheMPWorkerAdapter(server_url=self.config.lmcache_url, **self._common())
            on_error.callback(adapter.shutdown)
            hints = vllm_layout_hints(self.vllm_config)
            groups = create_engine_group_infos_from_vllm(
                self.kv_cache_config, kv_caches, layout_hints=hints
            )
            adapter.register_kv_caches(
                dict(kv_caches), engine_group_infos=groups, layout_hints=hints
            )
            adapter._ensure_heartbeat_started()
            on_error.pop_all()
        return TransferClient(adapter)

    def hashes(self, tokens: Sequence[int], chunk: int) -> list[bytes]:
        """LMCache's hash of each whole chunk of `chunk` tokens. Raises LMCacheError."""
        with foreign("hashes"):
            hasher = _hasher(chunk, self.config.lmcache_hash)
            hashes: list[bytes] = hasher.compute_chunk_hashes(list(tokens))
        return hashes

    def keys(self, salt: str, hashes: Sequence[bytes]) -> list[dict[str, Any]]:
        """Keys of every worker's share of these chunks, in the form of LMCache's HTTP frontend."""
        from lmcache.v1.distributed.api import ObjectKey

        world = self.vllm_config.parallel_config.world_size
        ranks = [ObjectKey.ComputeKVRank(world, rank, world, rank) for rank in range(world)]
        return [
            {
                "chunk_hash_hex": each.hex(),
                "model_name": self.model,
                "kv_rank": rank,
                "cache_salt": salt,
            }
            for each in hashes
            for rank in ranks
        ]

    def _common(self) -> dict[str, Any]:
        import zmq
        from lmcache.integration.vllm.vllm_multi_process_adapter import ParallelStrategy

        parallel = self.vllm_config.parallel_config
        strategy = ParallelStrategy(
            mla_only=False,
            vllm_world_size=parallel.world_size,
            vllm_worker_id=parallel.rank,
            tp_size=parallel.tensor_parallel_size,
            pp_size=parallel.pipeline_parallel_size,
            n_servers=_SERVERS,
        )
        return {
            "context": zmq.Context.instance(),
            "model_name": self.model,
            "vllm_block_size": self.block_size,
            "parallel_strategy": strategy,
            "extra_config": {
                # The engine copies: no other process writes into its blocks after a load ended.
                "lmcache.mp.mp_transfer_mode": "engine_driven",
                "lmcache.mp.mq_timeout": self.config.lmcache_timeout_seconds,
                "lmcache.mp.heartbeat_interval": self.config.lmcache_heartbeat_seconds,
            },
        }


@functools.lru_cache(maxsize=4)
def _hasher(chunk: int, algorithm: str) -> Any:
    from lmcache.v1.multiprocess.token_hasher import TokenHasher

    return TokenHasher(chunk_size=chunk, hash_algorithm=algorithm)


def model_name(fingerprint: bytes, vllm_config: Any, block_size: int) -> str:
    """A name for everything that KV's numbers, and their order in a block, depend on.

    LMCache copies a block's numbers in the order of the attention backend.
    """
    text = f"{fingerprint.hex()} {block_size} {_layout(vllm_config, block_size)}"
    return f"memos-{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def _layout(vllm_config: Any, block_size: int) -> str:
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return str(vllm_config.attention_config.backend)
    from vllm.v1.attention.backends.cpu_attn import _get_attn_isa

    model = vllm_config.model_config
    return f"cpu {_get_attn_isa(model.dtype, block_size, model.get_head_size())}"
