"""Text written by the served model in this process's engine, for the memory system."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextvars import Context
from typing import Any

from memos_vllm.engine.gateway import CALL, EngineCall, InFlight
from memos_vllm.errors import Unavailable
from memos_vllm.writer.base import Ask

_AT_ONCE = 8
_LONGEST_WAIT_SECONDS = 30.0
_PRIORITY = 1000
_ANSWER_SECONDS = 600.0


class EngineWriter:
    """Implements `writer.base.Writer`; called from threads other than the event loop's."""

    def __init__(
        self,
        engine_client: Any,
        tokenizer: Any,
        in_flight: InFlight,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._engine, self._tokenizer = engine_client, tokenizer
        self._in_flight, self._loop = in_flight, loop
        policy = engine_client.vllm_config.scheduler_config.policy
        self._priority = _PRIORITY if policy == "priority" else 0

    def write(self, asks: Sequence[Ask], done: Callable[[int], None]) -> list[str]:
        texts: list[str] = []
        for start in range(0, len(asks), _AT_ONCE):
            batch = asks[start : start + _AT_ONCE]
            written = asyncio.run_coroutine_threadsafe(self._write(batch), self._loop)
            try:
                texts += self._waited(written, functools.partial(done, len(texts)))
            finally:
                written.cancel()  # does nothing when it is complete
            done(len(texts))
        return texts

    @staticmethod
    def _waited(written: Future[list[str]], alive: Callable[[], None]) -> list[str]:
        """Wait for the texts.

        Args:
            alive: called every second; may raise.

        Raises:
            Unavailable: the engine did not answer within ten minutes.
        """
        deadline = time.monotonic() + _ANSWER_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(TimeoutError):
                return written.result(1.0)
            alive()
        raise Unavailable("the engine did not write within ten minutes")

    async def _write(self, asks: Sequence[Ask]) -> list[str]:
        await self._in_flight.idle(_LONGEST_WAIT_SECONDS)
        loop = asyncio.get_running_loop()
        # A new context: without a principal, an adapter or KV orders.
        tasks = [
            loop.create_task(self._ask(ask, self._priority, True), context=Context())
            for ask in asks
        ]
        return list(await asyncio.gather(*tasks))

    async def now(self, ask: Ask) -> str:
        """Write for a request that waits, with the priority of a person's request."""
        task = self._ask(ask, 0, False)
        return await asyncio.get_running_loop().create_task(task, context=Context())

    async def _ask(self, ask: Ask, priority: int, is_background: bool) -> str:
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        CALL.set(EngineCall(is_background=is_background))
        tokens = self._tokenizer.apply_chat_template(
            ask.messages, add_generation_prompt=True, return_dict=False
        )
        schema = StructuredOutputsParams(json=ask.schema) if ask.schema is not None else None
        params = SamplingParams(
            max_tokens=ask.max_tokens,
            temperature=ask.temperature,
            top_p=0.95 if ask.temperature else 1.0,
            seed=ask.seed,
            structured_outputs=schema,
        )
        outputs = self._engine.generate(
            {"prompt_token_ids": tokens, "cache_salt": secrets.token_hex(16)},
            params,
            f"memos-write-{secrets.token_hex(8)}",
            priority=priority,
        )
        text: str = [output async for output in outputs][-1].outputs[0].text
        return text
