"""MemosConnector: vLLM's KV connector interface over the two sides.

Named by `--kv-transfer-config` through `kv_connector_module_path`; `memos serve` does so by itself.
A model whose KV cannot be carried, or a fault at start, switches activation memory off with a
warning and never stops the engine.
"""

from __future__ import annotations

import logging
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorMetadata,
    KVConnectorRole,
)

from memos_vllm.activation.tensors import TensorStore
from memos_vllm.config.load import load_config
from memos_vllm.engine.kv.base import KeepingConnector
from memos_vllm.engine.kv.blocks import PagedCache, Unsupported
from memos_vllm.engine.kv.fingerprint import namer, rank_names
from memos_vllm.engine.kv.messages import StepOrders
from memos_vllm.engine.kv.rope import rotation_of
from memos_vllm.engine.kv.scheduler_side import SchedulerSide
from memos_vllm.engine.kv.stats import COUNTERS, KVStats
from memos_vllm.engine.kv.support import unsupported_reason
from memos_vllm.engine.kv.worker_side import RefusingWorker, WorkerSide

log = logging.getLogger("vllm.memos_kv")

_NAME = "MemosConnector"


class MemosConnector(KeepingConnector):
    counters = COUNTERS

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self._vllm_config = vllm_config
        self._kv_cache_config = kv_cache_config
        self._scheduler: SchedulerSide | None = None
        self._worker: WorkerSide | None = None
        self._store: TensorStore | None = None
        reason = unsupported_reason(vllm_config, kv_cache_config)
        if reason is not None:
            log.warning("KV of this model is not kept: %s", reason)
            return
        config = load_config()
        self._store = TensorStore(config.kv, config.kv_path)
        if role == KVConnectorRole.SCHEDULER:
            self._scheduler = SchedulerSide(
                self._store, namer(vllm_config, config.kv_path), config.kv
            )

    # -- in the engine core -----------------------------------------------------------------------

    def get_num_new_matched_tokens(
        self, request: Any, num_computed_tokens: int
    ) -> tuple[int | None, bool]:
        if self._scheduler is None:
            return 0, False
        return self._scheduler.matched_tokens(request, num_computed_tokens)

    def on_new_request(self, request: Any) -> None:
        if self._scheduler is not None:
            self._scheduler.arrived(request)

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        if self._scheduler is not None and num_external_tokens > 0:
            self._scheduler.allocated(request, blocks.get_block_ids()[0], num_external_tokens)

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        if self._scheduler is None:
            return StepOrders()
        return self._scheduler.take_orders(scheduler_output.num_scheduled_tokens)

    def request_finished(
        self, request: Any, block_ids: list[int]
    ) -> tuple[bool, dict[str, Any] | None]:
        return self._scheduler is not None and self._scheduler.finished(request, block_ids), None

    def update_connector_output(self, connector_output: Any) -> None:
        if self._scheduler is not None:
            self._scheduler.saved(list(connector_output.finished_sending or ()))
            self._learn(connector_output.kv_connector_stats)

    def _learn(self, stats: Any) -> None:
        """Rates, from the worker's counts; one of several connectors finds its own by its name."""
        own = stats if isinstance(stats, KVStats) else getattr(stats, "data", {}).get(_NAME)
        if self._scheduler is not None and isinstance(own, KVStats):
            self._scheduler.rates.learn(own.data)

    # -- in a worker ------------------------------------------------------------------------------

    def register_kv_caches(self, kv_caches: dict[str, Any]) -> None:
        if self._store is None:
            return
        context = self._vllm_config.compilation_config.static_forward_context
        group = self._kv_cache_config.kv_cache_groups[0]
        try:
            cache = PagedCache(
                kv_caches,
                context,
                self._kv_cache_config.num_blocks,
                group.kv_cache_spec.block_size,
            )
            cache.probe()
        except Unsupported as error:
            log.warning("KV of this model is not kept: %s", error)
            self._worker = RefusingWorker(group.kv_cache_spec.block_size)
            return
        rank = list(rank_names(self._vllm_config))[self._vllm_config.parallel_config.rank]
        rotation = rotation_of(self._vllm_config)
        self._worker = WorkerSide(
            self._store, cache, rank, rotation, prefetches=load_config().kv.prefetch
        )

    def bind_connector_metadata(self, connector_metadata: KVConnectorMetadata) -> None:
        super().bind_connector_metadata(connector_metadata)
        if self._worker is not None and isinstance(connector_metadata, StepOrders):
            self._worker.step_begins(connector_metadata)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        orders = self._get_connector_metadata()
        if self._worker is not None and isinstance(orders, StepOrders):
            self._worker.begin(orders)

    def wait_for_layer_load(self, layer_name: str) -> None:
        if self._worker is not None:
            self._worker.wait_for_layer(layer_name)

    def wait_for_save(self) -> None:
        """Saves wait for nothing: the blocks stay until `get_finished` names the request."""
        if self._worker is not None:
            self._worker.step_ends()

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        if self._worker is None:
            return None, None
        if finished_req_ids:
            self._worker.answered()
        return self._worker.take_finished()

    def get_block_ids_with_load_errors(self) -> set[int]:
        return set() if self._worker is None else self._worker.take_bad_blocks()

    def get_kv_connector_stats(self) -> KVStats | None:
        counts = {} if self._worker is None else self._worker.take_counts()
        return KVStats(data=counts) if counts else None

    def shutdown(self) -> None:
        if self._worker is not None:
            self._worker.close()
