"""MemosLMCacheConnector: vLLM's KV connector interface over LMCache's multiprocess mode.

One of `MemosTiers`.  Without LMCache, without its server, or with a model whose KV cannot be carried,
it does nothing but log a warning, and the engine runs on.  `engine.kv.connector` describes the order of
the calls.
"""

from __future__ import annotations

import importlib.util
import logging
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorMetadata,
    KVConnectorRole,
)

from memos_vllm.activation import hits
from memos_vllm.activation.store import SegmentStore
from memos_vllm.config.load import load_config
from memos_vllm.engine.kv.base import SavingConnector
from memos_vllm.engine.kv.fingerprint import namer
from memos_vllm.engine.kv.states import MISS, Finished
from memos_vllm.engine.kv.stats import LMCACHE_COUNTERS, KVStats
from memos_vllm.engine.kv.support import unsupported_reason
from memos_vllm.engine.lmcache.endpoint import Endpoint, model_name
from memos_vllm.engine.lmcache.ledger import Ledger
from memos_vllm.engine.lmcache.link import Link
from memos_vllm.engine.lmcache.messages import FailedSaves, StepTransfers
from memos_vllm.engine.lmcache.scheduler_side import SchedulerSide
from memos_vllm.engine.lmcache.worker_side import WorkerSide

log = logging.getLogger("vllm.memos_kv")


class MemosLMCacheConnector(SavingConnector):
    counters = LMCACHE_COUNTERS

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self._endpoint: Endpoint | None = None
        self._link: Link[Any] | None = None
        self._scheduler: SchedulerSide | None = None
        self._worker: WorkerSide | None = None
        reason = unsupported_reason(vllm_config, kv_cache_config)
        if importlib.util.find_spec("lmcache") is None:
            reason = "the package `lmcache` is not installed"
        if reason is not None:
            log.warning("conversations are not saved in LMCache: %s", reason)
            return
        config = load_config()
        size = kv_cache_config.kv_cache_groups[0].kv_cache_spec.block_size
        model = model_name(namer(vllm_config, config.kv_path).model, vllm_config, size)
        self._endpoint = Endpoint(vllm_config, kv_cache_config, config.kv, model)
        if role == KVConnectorRole.SCHEDULER:
            self._link = Link(self._endpoint.connect_scheduler, config.kv.lmcache_heartbeat_seconds)
            ledger = Ledger(SegmentStore(config.kv, config.kv_path), self._endpoint.keys)
            self._scheduler = SchedulerSide(ledger, self._endpoint, self._link)

    # -- in the engine core -----------------------------------------------------------------------

    def get_num_new_matched_tokens(
        self, request: Any, num_computed_tokens: int
    ) -> tuple[int | None, bool]:
        match = MISS
        if self._scheduler is not None:
            match = self._scheduler.match(request, num_computed_tokens)
        return match.for_vllm()

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        if self._scheduler is not None:
            self._scheduler.allocated(request, blocks.get_block_ids()[0], num_external_tokens)

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        return StepTransfers() if self._scheduler is None else self._scheduler.take_orders()

    def request_finished(
        self, request: Any, block_ids: list[int]
    ) -> tuple[bool, dict[str, Any] | None]:
        # vLLM's tuple: (the blocks stay alive for a save, parameters for the reply).
        if self._scheduler is None:
            return False, None
        report = hits.to_params(self._scheduler.loaded(request))
        return self._scheduler.finished(request, block_ids), report

    def update_connector_output(self, connector_output: Any) -> None:
        if self._scheduler is None:
            return
        report = connector_output.kv_connector_worker_meta
        if isinstance(report, FailedSaves):
            self._scheduler.not_saved(report.request_ids)
        self._scheduler.saved(list(connector_output.finished_sending or ()))

    # -- in a worker ------------------------------------------------------------------------------

    def register_kv_caches(self, kv_caches: dict[str, Any]) -> None:
        if self._endpoint is None:
            return
        endpoint, config = self._endpoint, self._endpoint.config
        self._link = Link(
            lambda: endpoint.connect_worker(kv_caches), config.lmcache_heartbeat_seconds
        )
        self._worker = WorkerSide(self._link)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        orders = self._get_connector_metadata()
        if self._worker is not None and isinstance(orders, StepTransfers):
            self._worker.begin(orders)

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        finished = Finished() if self._worker is None else self._worker.take_finished()
        return finished.for_vllm()

    def build_connector_worker_meta(self) -> FailedSaves | None:
        failed = set() if self._worker is None else self._worker.take_failed_saves()
        return FailedSaves(failed) if failed else None

    def get_block_ids_with_load_errors(self) -> set[int]:
        return set() if self._worker is None else self._worker.take_bad_blocks()

    def get_kv_connector_stats(self) -> KVStats | None:
        side = self._worker or self._scheduler
        counts = {} if side is None else side.take_counts()
        return KVStats(data=counts) if counts else None

    def shutdown(self) -> None:
        if self._worker is not None:
            self._worker.close()
        if self._link is not None:
            self._link.close()
