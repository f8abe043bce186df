"""The worker for a model whose KV cannot be carried: every load is computed instead."""

from __future__ import annotations

from memos_vllm.engine.kv.base import Reports
from memos_vllm.engine.kv.messages import StepOrders
from memos_vllm.engine.kv.states import When


class RefusingWorker(Reports):
    """A `Worker` that reports every load as failed and every save as over."""

    def __init__(self, block_size: int) -> None:
        super().__init__()
        self._block_size = block_size

    def step_begins(self, orders: StepOrders) -> None:
        """Measures nothing."""

    def begin(self, orders: StepOrders) -> None:
        for load in orders.loads:
            first, last = load.start // self._block_size, (load.end - 1) // self._block_size
            self._bad_blocks.update(load.block_ids[first : last + 1])
            if load.when is When.BETWEEN_STEPS:
                self._loaded.add(load.request_id)
        self._saved.update(save.request_id for save in orders.saves)

    def wait_for_layer(self, name: str) -> None:
        """Returns at once: no load runs."""

    def step_ends(self) -> None:
        """Returns at once: no load runs."""

    def answered(self) -> None:
        """Promotes nothing: no segment is used."""

    def close(self) -> None:
        """Stops nothing: it has no threads."""
