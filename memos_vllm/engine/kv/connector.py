"""MemosConnector: vLLM's KV connector interface over a scheduler side and a worker side.

The protocol.  vLLM makes one connector in the scheduler process and one in every worker process.  The
two never share memory: orders travel with each step to the workers, and results travel back.

    process    call                            when, and what is held
    ---------  ------------------------------  ---------------------------------------------------------
    worker     register_kv_caches              once, before the first step and before CUDA graphs are
                                               captured; the caches stay at their addresses
    scheduler  on_new_request                  a request joins the queue; it has no blocks
    scheduler  get_num_new_matched_tokens      it may be scheduled; it has its prefix cache hit and no
                                               other blocks; repeated, so it changes no state of vLLM
    scheduler  update_state_after_alloc        its blocks are allocated and stay while it runs; again,
                                               with 0 tokens, after a load between steps
    scheduler  build_connector_meta            end of scheduling, once per step; takes the orders
    worker     bind_connector_metadata         before the step; its orders are bound until wait_for_save
    worker     start_load_kv                   before the forward pass, or after its launch where no load
                                               belongs to the step; the blocks of every load are alive
    worker     wait_for_layer_load             in each attention layer, before it reads its blocks; may
                                               block; CUDA graphs do not call it
    worker     save_kv_layer                   in each attention layer, after it; unused here
    worker     wait_for_save                   once per step, after the forward pass
    worker     get_finished                    names saves and loads that are over: the scheduler frees
                                               the blocks of the saves and resumes those loads' requests
    worker     get_block_ids_with_load_errors  no later than get_finished names the load; the scheduler
                                               computes the tokens of these blocks
    worker     get_kv_connector_stats          counts since the last call
    scheduler  request_finished                once per request; after True its blocks stay alive until
                                               get_finished names it
    scheduler  update_connector_output         the workers' results of the step
    scheduler  take_events                     after it, for the KV events of `--kv-events-config`
    both       shutdown                        at the end of the process

The calls of a process come from one thread, which holds no lock of ours; it waits only for a load that
its step computes on.  In a worker, loads and saves run in our own threads, and `Reports` guards their
results.

vLLM finds the connector by `--kv-transfer-config` (`kv_connector_module_path`), which `memos serve`
sets.  A model whose KV cannot be carried switches activation memory off with a warning; it never stops
the engine.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorMetadata,
    KVConnectorRole,
)

from memos_vllm.activation import hits
from memos_vllm.activation.orders import has_places
from memos_vllm.activation.store import SegmentStore
from memos_vllm.activation.tensors import TensorStore
from memos_vllm.config.load import load_config
from memos_vllm.engine.kv.base import SavingConnector
from memos_vllm.engine.kv.blocks import PagedCache, Unsupported
from memos_vllm.engine.kv.events import events_of
from memos_vllm.engine.kv.fingerprint import namer, rank_names
from memos_vllm.engine.kv.messages import StepOrders
from memos_vllm.engine.kv.refusing import RefusingWorker
from memos_vllm.engine.kv.rope import rotation_of
from memos_vllm.engine.kv.scheduler_side import SchedulerSide
from memos_vllm.engine.kv.states import MISS, UNDECIDED, Finished, Worker
from memos_vllm.engine.kv.stats import COUNTERS, KVStats
from memos_vllm.engine.kv.support import unsupported_reason
from memos_vllm.engine.kv.worker_side import WorkerSide
from memos_vllm.engine.patches import required_loads

log = logging.getLogger("vllm.memos_kv")

_NAME = "MemosConnector"


class MemosConnector(SavingConnector):
    counters = COUNTERS

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self._vllm_config = vllm_config
        self._kv_cache_config = kv_cache_config
        self._scheduler: SchedulerSide | None = None
        self._worker: Worker | None = None
        self._segments: SegmentStore | None = None
        if role == KVConnectorRole.SCHEDULER:
            required_loads.install()
        reason = unsupported_reason(vllm_config, kv_cache_config)
        if reason is not None:
            log.warning("activation memory is off: %s", reason)
            return
        config = load_config()
        self._segments = SegmentStore(config.kv, config.kv_path)
        if role == KVConnectorRole.SCHEDULER:
            block_size = kv_cache_config.kv_cache_groups[0].kv_cache_spec.block_size
            self._scheduler = SchedulerSide(
                self._segments,
                namer(vllm_config, config.kv_path),
                config.kv,
                events_of(vllm_config, self._segments, block_size),
            )

    # -- worker, at the start ---------------------------------------------------------------------

    def register_kv_caches(self, kv_caches: dict[str, Any]) -> None:
        if self._segments is None:
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
            log.warning("activation memory is off: %s", error)
            self._worker = RefusingWorker(group.kv_cache_spec.block_size)
            return
        rank = list(rank_names(self._vllm_config))[self._vllm_config.parallel_config.rank]
        self._worker = WorkerSide(
            TensorStore(self._segments),
            cache,
            rank,
            rotation_of(self._vllm_config),
            prefetches=load_config().kv.prefetch,
        )

    # -- scheduler, before a step -----------------------------------------------------------------

    def on_new_request(self, request: Any) -> None:
        if self._scheduler is not None:
            self._scheduler.arrived(request)

    def get_num_new_matched_tokens(
        self, request: Any, num_computed_tokens: int
    ) -> tuple[int | None, bool]:
        if self._scheduler is not None:
            return self._scheduler.match(request, num_computed_tokens).for_vllm()
        if has_places(request.kv_transfer_params):
            required_loads.refuse(request.request_id)
            return UNDECIDED.for_vllm()
        return MISS.for_vllm()

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        if self._scheduler is not None and num_external_tokens > 0:
            self._scheduler.allocated(request, blocks.get_block_ids()[0], num_external_tokens)

    def get_external_cache_hit_sources(
        self, request: Any, num_external_tokens: int
    ) -> dict[Any, int]:
        """For vLLM's metrics of prefix cache hits; called after `update_state_after_alloc`."""
        from vllm.v1.metrics.cache_hit_source import CacheHitSource  # since vLLM 0.32

        names = {"memory": CacheHitSource.HOST, "disk": CacheHitSource.DISK}
        found: Counter[Any] = Counter()
        for each in self._scheduler.loaded(request) if self._scheduler is not None else ():
            found[names[each.source]] += each.end - each.start
        return dict(found)

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        if self._scheduler is None:
            return StepOrders()
        return self._scheduler.take_orders(scheduler_output.num_scheduled_tokens)

    # -- worker, during a step --------------------------------------------------------------------

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
        """End the step; saves go on, as their blocks stay until `get_finished` names the request."""
        if self._worker is not None:
            self._worker.step_ends()

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        finished = Finished()
        if self._worker is not None:
            if finished_req_ids:
                self._worker.answered()
            finished = self._worker.take_finished()
        return finished.for_vllm()

    def get_block_ids_with_load_errors(self) -> set[int]:
        return set() if self._worker is None else self._worker.take_bad_blocks()

    def get_kv_connector_stats(self) -> KVStats | None:
        counts = {} if self._worker is None else self._worker.take_counts()
        return KVStats(data=counts) if counts else None

    # -- scheduler, after a step ------------------------------------------------------------------

    def request_finished(
        self, request: Any, block_ids: list[int]
    ) -> tuple[bool, dict[str, Any] | None]:
        # vLLM's tuple: (the blocks stay alive for a save, parameters for the reply).
        if self._scheduler is None:
            return False, None
        report = hits.to_params(self._scheduler.loaded(request))
        return self._scheduler.finished(request, block_ids), report

    def update_connector_output(self, connector_output: Any) -> None:
        if self._scheduler is not None:
            self._scheduler.saved(list(connector_output.finished_sending or ()))
            self._learn(connector_output.kv_connector_stats)

    def _learn(self, stats: Any) -> None:
        """Learn rates from the worker's counts; among several connectors', ours go by our name."""
        own = stats if isinstance(stats, KVStats) else getattr(stats, "data", {}).get(_NAME)
        if self._scheduler is not None and isinstance(own, KVStats):
            self._scheduler.rates.learn(own.data)

    def take_events(self) -> Iterator[Any]:
        """KV events of kept segments, which vLLM publishes with its own, once per step."""
        if self._scheduler is not None and self._scheduler.events is not None:
            yield from self._scheduler.events.take()

    # -- both, at the end -------------------------------------------------------------------------

    def shutdown(self) -> None:
        if self._worker is not None:
            self._worker.close()
