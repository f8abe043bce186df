"""MemosTiers: several KV connectors in one engine, of which the one that has most of a prompt loads."""

from __future__ import annotations

from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.multi_connector import (
    MultiConnector,
    MultiKVConnectorStats,
)

from memos_vllm.engine.kv.stats import KVStats


class MemosTiers(MultiConnector):
    def get_num_new_matched_tokens(
        self, request: Any, num_computed_tokens: int
    ) -> tuple[int | None, bool]:
        """vLLM's own takes the first connector that has anything: a cube instead of a conversation."""
        chosen: tuple[int, bool] = (0, False)
        for i, connector in enumerate(self._connectors):
            tokens, beside = connector.get_num_new_matched_tokens(request, num_computed_tokens)
            if tokens is None:
                return None, False
            if tokens > chosen[0]:
                chosen = tokens, beside
                self._requests_to_connector[request.request_id] = i
        return chosen

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> MultiKVConnectorStats:
        """vLLM's own looks for the connectors in its registry, where ours are not."""
        return MultiKVConnectorStats(
            data={
                name: stats if isinstance(stats, KVStats) else KVStats(data=stats)
                for name, stats in (data or {}).items()
            }
        )
