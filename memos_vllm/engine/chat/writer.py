"""Text written by the served model in this process's engine, for the memory system.

Background work yields: it waits while persons' requests run, and is cancelled and begun again when one
arrives.  A request that continues a served conversation computes only what stands behind it.
"""

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

from memos_vllm import metrics
from memos_vllm.engine.chat.served import ServedPrompt, ServedPrompts
from memos_vllm.engine.gateway import CALL, EngineCall, InFlight
from memos_vllm.errors import Unavailable
from memos_vllm.writer.base import Ask

_AT_ONCE = 8
_LONGEST_WAIT_SECONDS = 30.0
_MOST_YIELDS = 4
"""Times that background work is begun again; then it goes on beside persons' requests."""
_PRIORITY = 1000
_ANSWER_SECONDS = 600.0
_LEAST_TOKENS = 128
"""Tokens that an answer must have room for behind a conversation."""
_SHARED_SALT = "memos-shared"
_USER, _REPLY = "memosuser", "memosreply"


class EngineWriter:
    """Implements `writer.base.Writer`; called from threads other than the event loop's."""

    def __init__(
        self,
        engine_client: Any,
        tokenizer: Any,
        in_flight: InFlight,
        loop: asyncio.AbstractEventLoop,
        served: ServedPrompts | None = None,
    ) -> None:
        """
        Args:
            served: conversations that an ask may continue; None: none.
        """
        self._engine, self._tokenizer = engine_client, tokenizer
        self._in_flight, self._loop = in_flight, loop
        self._served = served
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

    def continues(self, request_id: str, said: Sequence[str]) -> bool:
        """Whether an ask can continue a request's conversation, which has these user messages."""
        return self._served is not None and self._served.holds(request_id, said)

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
        texts: dict[int, str] = {}
        for attempt in range(_MOST_YIELDS + 1):
            await self._in_flight.idle(_LONGEST_WAIT_SECONDS)
            left = [number for number in range(len(asks)) if number not in texts]
            texts |= await self._begin([(n, asks[n]) for n in left], attempt < _MOST_YIELDS)
            if len(texts) == len(asks):
                break
        return [texts[number] for number in range(len(asks))]

    async def _begin(self, asks: Sequence[tuple[int, Ask]], yields: bool) -> dict[int, str]:
        """Texts by number; without those that were cancelled because a request arrived."""
        loop = asyncio.get_running_loop()
        # A new context: without a principal, an adapter or KV orders.
        tasks = {
            loop.create_task(self._ask(ask, self._priority, True), context=Context()): number
            for number, ask in asks
        }
        arrival = loop.create_task(self._in_flight.arrival()) if yields else None
        waiting: set[asyncio.Task[Any]] = set(tasks)
        try:
            while waiting and not (arrival is not None and arrival.done()):
                also = {arrival} if arrival is not None else set()
                await asyncio.wait(waiting | also, return_when=asyncio.FIRST_COMPLETED)
                waiting = {task for task in waiting if not task.done()}
        finally:
            for task in (*waiting, *([arrival] if arrival is not None else [])):
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        return {number: task.result() for task, number in tasks.items() if not task.cancelled()}

    async def now(self, ask: Ask) -> str:
        """Write for a request that waits, with the priority of a person's request."""
        task = self._ask(ask, 0, False)
        return await asyncio.get_running_loop().create_task(task, context=Context())

    async def _ask(self, ask: Ask, priority: int, is_background: bool) -> str:
        from vllm import SamplingParams

        prompt, call, form = self._prompt(ask)
        call.is_background = is_background
        CALL.set(call)
        room = self._context() - len(prompt["prompt_token_ids"])
        params = SamplingParams(
            max_tokens=max(1, min(ask.max_tokens, room)),
            temperature=ask.temperature,
            top_p=0.95 if ask.temperature else 1.0,
            seed=ask.seed,
            structured_outputs=structure(ask.schema),
        )
        request_id = f"memos-write-{secrets.token_hex(8)}"
        outputs = self._engine.generate(prompt, params, request_id, priority=priority)
        try:
            last = [output async for output in outputs][-1]
        finally:
            await outputs.aclose()
        cached = getattr(last, "num_cached_tokens", None) or 0
        metrics.WRITER_TOKENS.labels(form, "cached").inc(cached)
        metrics.WRITER_TOKENS.labels(form, "computed").inc(len(prompt["prompt_token_ids"]) - cached)
        metrics.WRITER_REQUESTS.labels(form).inc()
        if form == "continued" and self._served is not None and ask.after is not None:
            self._served.drop(ask.after)  # a turn is read once
        text: str = last.outputs[0].text
        return text

    def _prompt(self, ask: Ask) -> tuple[dict[str, Any], EngineCall, str]:
        """(prompt, call, form): behind the served conversation, if the engine still has it."""
        served = self._served.get(ask.after) if self._served is not None and ask.after else None
        if served is not None and ask.instruction is not None:
            tokens = self._continued(served, ask.instruction)
            if tokens is not None:
                call = EngineCall(served.principal, private_salt=served.private_salt)
                prompt: dict[str, Any] = {"prompt_token_ids": tokens}
                if served.client_salt is not None:
                    prompt["cache_salt"] = served.client_salt
                return prompt, call, "continued"
        tokens = self._tokenizer.apply_chat_template(
            ask.messages, add_generation_prompt=True, return_dict=False
        )
        salt = _SHARED_SALT if ask.shared else secrets.token_hex(16)
        return {"prompt_token_ids": tokens, "cache_salt": salt}, EngineCall(), "alone"

    def _continued(self, served: ServedPrompt, instruction: str) -> list[int] | None:
        """Tokens of the conversation and the instruction; None: they do not fit the context."""
        tail = self._tail(instruction)
        if tail is None:
            return None
        tokens = list(served.tokens)
        ends = {tail[0], *getattr(self._tokenizer, "all_special_ids", ())}
        while tokens and tokens[-1] in ends:
            tokens.pop()
        tokens += tail
        return tokens if len(tokens) + _LEAST_TOKENS <= self._context() else None

    def _tail(self, instruction: str) -> list[int] | None:
        """Tokens from the end of a reply to the beginning of the answer; None: unknown template."""
        messages = [
            {"role": "user", "content": _USER},
            {"role": "assistant", "content": _REPLY},
            {"role": "user", "content": instruction},
        ]
        text = self._tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False
        )
        _, mark, tail = text.rpartition(_REPLY) if isinstance(text, str) else ("", "", "")
        if not mark or instruction not in tail:
            return None
        tokens: list[int] = self._tokenizer.encode(tail, add_special_tokens=False)
        return tokens

    def _context(self) -> int:
        return int(self._engine.vllm_config.model_config.max_model_len)


@functools.lru_cache(maxsize=8)
def _grammar(schema: str) -> str | None:
    """EBNF of a JSON schema without line breaks and indents, in which small models get lost."""
    try:
        import xgrammar
    except ImportError:
        return None
    return str(
        xgrammar.Grammar.from_json_schema(schema, any_whitespace=False, separators=(", ", ": "))
    )


def structure(schema: dict[str, Any] | None) -> Any:
    """Structured output by a JSON schema, on one line."""
    import json

    from vllm.sampling_params import StructuredOutputsParams

    if schema is None:
        return None
    grammar = _grammar(json.dumps(schema))
    if grammar is None:
        return StructuredOutputsParams(json=schema)
    return StructuredOutputsParams(grammar=grammar)
