"""LMCache's own adapters, made for this engine. The one module that knows LMCache's Python API."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from memos_vllm.config.tree import KVConfig
from memos_vllm.engine.lmcache.messages import Transfer

_SERVERS = 1


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """What both sides of the engine connect with."""

    vllm_config: Any
    kv_cache_config: Any
    config: KVConfig
    model: str
    """The name under which LMCache keeps this model's KV."""

    @property
    def block_size(self) -> int:
        size: int = self.kv_cache_config.kv_cache_groups[0].kv_cache_spec.block_size
        return size

    def scheduler(self) -> Any:
        """Raises ConnectionError or ValueError (a chunk that is not made of whole blocks)."""
        from lmcache.integration.vllm.vllm_multi_process_adapter import LMCacheMPSchedulerAdapter

        adapter = LMCacheMPSchedulerAdapter(server_urls=[self.config.lmcache_url], **self._common())
        adapter._ensure_heartbeat_started()  # it would start with the first request
        return adapter

    def worker(self, kv_caches: Mapping[str, Any]) -> Any:
        """The same for a worker, with its KV cache registered."""
        from lmcache.integration.vllm.kv_cache_groups import create_engine_group_infos_from_vllm
        from lmcache.integration.vllm.utils import vllm_layout_hints
        from lmcache.integration.vllm.vllm_multi_process_adapter import LMCacheMPWorkerAdapter

        adapter = LMCacheMPWorkerAdapter(server_url=self.config.lmcache_url, **self._common())
        try:
            hints = vllm_layout_hints(self.vllm_config)
            groups = create_engine_group_infos_from_vllm(
                self.kv_cache_config, kv_caches, layout_hints=hints
            )
            adapter.register_kv_caches(
                dict(kv_caches), engine_group_infos=groups, layout_hints=hints
            )
        except BaseException:
            adapter.shutdown()
            raise
        adapter._ensure_heartbeat_started()
        return adapter

    def hasher(self, chunk: int) -> Any:
        from lmcache.v1.multiprocess.token_hasher import TokenHasher

        return TokenHasher(chunk_size=chunk, hash_algorithm=self.config.lmcache_hash)

    def keys(self, salt: str, hashes: Sequence[bytes]) -> list[dict[str, Any]]:
        """Of every worker's share of these chunks, as LMCache's HTTP frontend takes them."""
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
                # The engine copies, so nobody writes into its blocks after a load was given up.
                "lmcache.mp.mp_transfer_mode": "engine_driven",
                "lmcache.mp.mq_timeout": self.config.lmcache_timeout_seconds,
                "lmcache.mp.heartbeat_interval": self.config.lmcache_heartbeat_seconds,
            },
        }


def operation(transfer: Transfer) -> Any:
    """A transfer in LMCache's words."""
    from lmcache.integration.vllm.vllm_multi_process_adapter import LoadStoreOp

    return LoadStoreOp(
        token_ids=list(transfer.tokens),
        block_ids=[list(transfer.block_ids)],
        start=transfer.start,
        end=transfer.end,
        skip_first_n_tokens=transfer.skip,
    )


def model_name(fingerprint: bytes, vllm_config: Any, block_size: int) -> str:
    """A name for everything that KV's numbers, and their order in a block, depend on.

    LMCache copies a block's numbers in whatever order the attention backend keeps them.
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
