"""Background computation of KV in the engine.

A prompt is computed in short pieces, each a request that continues the one before, and only while no
person's request runs: a person's request waits for one piece at most.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Hashable, Sequence
from contextvars import Context
from typing import Any

from memos_vllm.activation.chain import Segment
from memos_vllm.activation.names import Namer
from memos_vllm.activation.orders import Orders
from memos_vllm.activation.store import SegmentStore
from memos_vllm.engine.gateway import CALL, EngineCall, InFlight
from memos_vllm.errors import SegmentsUnavailable

PIECE_TOKENS = 256
_LONGEST_WAIT_SECONDS = 30.0
_SAVE_SECONDS = 30.0
_PRIORITY = 1000
_LISTED = 20
"""Number of log-probabilities asked for, if the engine gives them."""


class ChainBuilder:
    def __init__(
        self, engine_client: Any, store: SegmentStore, namer: Namer, in_flight: InFlight
    ) -> None:
        self._engine = engine_client
        self._store = store
        self.namer = namer
        self._in_flight = in_flight
        self._one_at_a_time = asyncio.Semaphore(1)
        policy = engine_client.vllm_config.scheduler_config.policy
        self._priority = _PRIORITY if policy == "priority" else 0
        self._listed: int = min(_LISTED, engine_client.vllm_config.model_config.max_logprobs)

    @property
    def sees_logprobs(self) -> bool:
        return bool(self._listed > 0)

    async def build(self, tokens: Sequence[int], segments: Sequence[Segment]) -> bool:
        """Compute and store the KV of these segments; False when it is stored already.

        Raises:
            SegmentsUnavailable: it was computed and not stored (the server's log says why).
        """
        names = self.namer.names(tokens, segments)
        if all([await asyncio.to_thread(self._store.has_all, each) for each in names]):
            return False
        end, salt = segments[-1].end, secrets.token_hex(16)  # these blocks serve no request
        async with self._one_at_a_time:
            for reach in [*range(PIECE_TOKENS, end, PIECE_TOKENS), end + 1]:
                orders = Orders(tuple(segments)) if reach > end else None
                # The engine computes at least one token, so any token follows the chain.
                prompt = [*tokens[:reach], tokens[0]][:reach]
                await self._when_idle(prompt, salt, orders)
            deadline = time.monotonic() + _SAVE_SECONDS
            while not await asyncio.to_thread(self._store.has_all, names[-1]):
                if time.monotonic() > deadline:
                    raise SegmentsUnavailable("the KV was computed and not stored; see the log")
                await asyncio.sleep(0.05)
        return True

    async def measure(self) -> None:
        """Compute one piece, so that the connector knows the rate of prefill from the start."""
        async with self._one_at_a_time:
            await self._when_idle(list(range(1, PIECE_TOKENS + 1)), secrets.token_hex(16), None)

    async def ask(
        self, tokens: list[int], salt: str, orders: Orders
    ) -> tuple[int, dict[Hashable, float]]:
        """(tokens whose KV was cached or loaded, log-probabilities of the first token by token id)"""
        async with self._one_at_a_time:
            output = await self._when_idle(tokens, salt=salt, orders=orders, listed=self._listed)
        listed = output.outputs[0].logprobs[0]
        logprobs = {token: entry.logprob for token, entry in listed.items()}
        return output.num_cached_tokens or 0, logprobs

    async def _when_idle(
        self, tokens: list[int], salt: str, orders: Orders | None, listed: int | None = None
    ) -> Any:
        await self._in_flight.idle(_LONGEST_WAIT_SECONDS)
        work = self._compute(tokens, salt=salt, orders=orders, listed=listed)
        return await asyncio.get_running_loop().create_task(work, context=Context())

    async def _compute(
        self, tokens: list[int], salt: str, orders: Orders | None, listed: int | None
    ) -> Any:
        from vllm import SamplingParams

        CALL.set(EngineCall(kv_orders=orders.to_params() if orders else None, is_background=True))
        outputs = self._engine.generate(
            {"prompt_token_ids": tokens, "cache_salt": salt},
            SamplingParams(max_tokens=1, temperature=0.0, detokenize=False, logprobs=listed),
            f"memos-build-{secrets.token_hex(8)}",
            priority=self._priority,
        )
        return [output async for output in outputs][-1]
