"""Base of our KV connectors: saves after the reply, counts, and the reports of a worker."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar

from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1, SupportsHMA

from memos_vllm.engine.kv.states import Finished
from memos_vllm.engine.kv.stats import KVPromMetrics, KVStats


class SavingConnector(KVConnectorBase_V1, SupportsHMA):
    """A connector that saves KV after the reply; KV that it loses is computed again."""

    counters: ClassVar[Mapping[str, str]] = {}

    @property
    def requires_kv_delivery(self) -> bool:
        return False  # a save that is dropped is a miss later

    def request_finished_all_groups(
        self, request: Any, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        return self.request_finished(request, block_ids[0])

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Nothing: loads are complete before their request is scheduled."""

    def save_kv_layer(
        self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any
    ) -> None:
        """Nothing: saves read the blocks after their request finished."""

    def wait_for_save(self) -> None:
        """Nothing: the blocks stay until `get_finished` names the request."""

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> KVStats:
        return KVStats(data=data or {})

    @classmethod
    def build_prom_metrics(
        cls,
        vllm_config: Any,
        metric_types: dict[Any, Any],
        labelnames: list[str],
        per_engine_labelvalues: dict[int, list[object]],
    ) -> KVPromMetrics:
        return KVPromMetrics(
            vllm_config, metric_types, labelnames, per_engine_labelvalues, cls.counters
        )


class Reports:
    """Results of a worker's threads, collected until the engine takes them. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loaded: set[str] = set()
        self._saved: set[str] = set()
        self._bad_blocks: set[int] = set()
        self._counts: Counter[str] = Counter()

    def take_finished(self) -> Finished:
        with self._lock:
            finished = Finished(frozenset(self._saved), frozenset(self._loaded))
            self._saved, self._loaded = set(), set()
        return finished

    def take_bad_blocks(self) -> set[int]:
        with self._lock:
            bad, self._bad_blocks = self._bad_blocks, set()
        return bad

    def take_counts(self) -> dict[str, float]:
        with self._lock:
            counts, self._counts = self._counts, Counter()
        return dict(counts)
