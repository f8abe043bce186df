"""Counters of loads and saves, on vLLM's `/metrics`."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.metrics import (
    KVConnectorPromMetrics,
    KVConnectorStats,
)

COUNTERS = {
    "loaded_tokens_ram": "Tokens whose KV came from shared memory",
    "loaded_tokens_disk": "Tokens whose KV came from disk",
    "loaded_segments": "Segments that were loaded",
    "saved_tokens": "Tokens whose KV was saved",
    "load_failures": "Loads that failed and were computed instead",
    "save_failures": "Saves that failed",
    "load_seconds": "Time spent loading KV",
    "read_tokens_ram": "Tokens in the files read from shared memory, the measurement at the start included",
    "read_tokens_disk": "Tokens in the files read from disk, the measurement at the start included",
    "read_seconds_ram": "Time spent reading them and copying them into the paged cache",
    "read_seconds_disk": "Time spent reading them and copying them into the paged cache",
    "prefill_tokens": "Prompt tokens computed in steps without a load",
    "prefill_seconds": "Time that those steps took",
}
LMCACHE_COUNTERS = {
    "lmcache_loaded_tokens": "Tokens whose KV came from LMCache",
    "lmcache_saved_tokens": "Tokens whose KV was handed to LMCache",
    "lmcache_load_failures": "Loads from LMCache that failed and were computed instead",
    "lmcache_save_failures": "Saves to LMCache that failed",
    "lmcache_unanswered": "Requests computed because LMCache's server did not answer",
}

TOTALS: Counter[str] = Counter()
"""In the API process: all workers' counts since the server started, by the names of `COUNTERS`."""


@dataclasses.dataclass
class KVStats(KVConnectorStats):
    """Counts since the last report, by the names of `COUNTERS`."""

    def reset(self) -> None:
        self.data = {}

    def aggregate(self, other: KVConnectorStats) -> KVConnectorStats:
        for name, amount in other.data.items():
            self.data[name] = self.data.get(name, 0) + amount
        return self

    def reduce(self) -> dict[str, int | float]:
        return {name.replace("_", " "): round(amount, 3) for name, amount in self.data.items()}

    def is_empty(self) -> bool:
        return not self.data


class KVPromMetrics(KVConnectorPromMetrics):
    def __init__(
        self,
        vllm_config: Any,
        metric_types: dict[Any, Any],
        labelnames: list[str],
        per_engine_labelvalues: dict[int, list[object]],
        counters: Mapping[str, str],
    ) -> None:
        super().__init__(vllm_config, metric_types, labelnames, per_engine_labelvalues)
        self._counters: dict[str, Any] = {
            name: self._counter_cls(
                name=f"memos_kv_{name}_total", documentation=text, labelnames=labelnames
            )
            for name, text in counters.items()
        }
        for values in per_engine_labelvalues.values():
            for counter in self._counters.values():
                counter.labels(*values)  # a series exists from the start, at 0

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        values = self.per_engine_labelvalues[engine_idx]
        for name, amount in transfer_stats_data.items():
            if name in self._counters:
                TOTALS[name] += amount
                self._counters[name].labels(*values).inc(amount)
