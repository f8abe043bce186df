"""MemosTiers: several KV connectors in one engine; the one that has most of a prompt loads it."""

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
        """Choose the connector with the most tokens.

        vLLM's MultiConnector takes the first that has any: a cube instead of a conversation.
        """
        chosen: tuple[int, bool] = (0, False)  # vLLM's tuple: (tokens, loaded between steps)
        for i, connector in enumerate(self._connectors):
            tokens, between_steps = connector.get_num_new_matched_tokens(
                request, num_computed_tokens
            )
            if tokens is None:
                return None, False
            if tokens > chosen[0]:
                chosen = tokens, between_steps
                self._requests_to_connector[request.request_id] = i
        return chosen

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> MultiKVConnectorStats:
        """Rebuild the counts; vLLM's version looks for connectors in its registry, which lacks ours."""
        return MultiKVConnectorStats(
            data={
                name: stats if isinstance(stats, KVStats) else KVStats(data=stats)
                for name, stats in (data or {}).items()
            }
        )
