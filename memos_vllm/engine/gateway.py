"""The gateway from HTTP into the engine: salt, adapter and KV orders of each request.

`install` replaces `generate` and `encode` of the running engine client (the object, not the class),
which all of vLLM's handlers call: chat, completions, responses, messages, pooling, beam search. No
route, present or future, can leave the salt out.

A handler describes its request as an `EngineCall` in the context variable `CALL`. A request that
reaches the engine without one (a route that memory does not know) gets the salt of its principal.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextvars import ContextVar
from typing import Any

from memos_vllm.activation import hits
from memos_vllm.activation.hits import Loaded
from memos_vllm.activation.orders import FIELD
from memos_vllm.cube.ids import TenantId
from memos_vllm.engine.bounds import check_integers
from memos_vllm.errors import NotBuilt
from memos_vllm.governance.current import PRINCIPAL
from memos_vllm.governance.limits.fairness import FairQueue
from memos_vllm.governance.limits.meter import METER, Meter
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.governance.salt import Isolation, cache_salt
from memos_vllm.ports import AttachedAdapter

log = logging.getLogger(__name__)
ENGINE_ITSELF = Principal(TenantId(""), Role.READER, "engine")
"""The principal outside a request (warm-up, health checks): its salt belongs to no tenant."""


@dataclasses.dataclass
class TextPrompt:
    """A prompt for the case that the KV of the compacts in another one cannot be loaded."""

    tokens: list[int]
    kv_orders: dict[str, Any]
    places: list[int]
    """The tokens of the prompt that is sent instead."""
    context: int
    """Of the model, tokens."""
    is_used: bool = False


@dataclasses.dataclass
class EngineCall:
    """One request on its way into the engine: what vLLM's handlers have no argument for."""

    principal: Principal = ENGINE_ITSELF
    """Its salt separates the prefix cache."""
    model_name: str | None = None
    """The parametric cube that the request names as its `model`; None: it names the base model."""
    adapter: AttachedAdapter | None = None
    kv_orders: dict[str, Any] | None = None
    """Orders to the KV connector, as `kv_transfer_params`."""
    private_salt: str | None = None
    """Narrows the salt to this request alone: its blocks are approximate."""
    text: TextPrompt | None = None
    """The same prompt with its text, where the one that is sent has places of compacts; None: it has none."""
    rendered: tuple[Any, Any] | None = None
    """(request, vLLM's rendering of it), so that the handler does not render it again."""
    on_output: Callable[[Any], None] | None = None
    """Called with each output of the engine."""
    loaded: list[Loaded] = dataclasses.field(default_factory=list)
    """KV that a connector loaded for it, reported with its last output."""
    recorded: asyncio.Future[None] | None = None
    """Ends when the read of memory is recorded: the first output waits for it."""
    is_background: bool = False
    """Work of the memory system, which waits while people's requests run."""


CALL: ContextVar[EngineCall | None] = ContextVar("memos_engine_call", default=None)
"""The current request; tasks and streams that the handler starts inherit it."""

_MARK = "_memos_salted"
_SETTLED_SECONDS = 0.02


class InFlight:
    """Counter of people's requests, from their arrival, that the server works on."""

    def __init__(self) -> None:
        self._count = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._busy = asyncio.Event()

    def __enter__(self) -> None:
        self._count += 1
        self._idle.clear()
        self._busy.set()

    def __exit__(self, *_: object) -> None:
        self._count -= 1
        if not self._count:
            self._busy.clear()
            self._idle.set()

    async def idle(self, seconds: float) -> None:
        """Wait until the count is zero and stays so for a moment, `seconds` at most.

        Between a chat handler's return and the first step of its stream the count is zero, too.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._count:
                    await self._idle.wait()
                    await asyncio.sleep(_SETTLED_SECONDS)

    async def arrival(self) -> None:
        """Wait until a person's request is there."""
        await self._busy.wait()


@dataclasses.dataclass(frozen=True)
class Salter:
    secret: bytes | Callable[[], tuple[bytes, ...]]
    """One secret, or what gives all of them, the newest first."""
    isolation: Isolation
    trust_client_kv_transfer_params: bool
    in_flight: InFlight = dataclasses.field(default_factory=InFlight)
    generation: Callable[[Principal], int] = lambda principal: 0
    """Number of the last erasure, as of the principal's epoch."""

    def salt(self, client_salt: str | None) -> str:
        call = current_call()
        if call.private_salt is not None:
            client_salt = f"{call.private_salt}{client_salt or ''}"
        secret = self.secret if isinstance(self.secret, bytes) else self.secret()[0]
        generation = self.generation(call.principal)
        return cache_salt(secret, call.principal, self.isolation, client_salt, generation)

    def salted(self, prompt: Any) -> Any:
        """The prompt with its salt; a text, token ids, a prompt's dict, or an engine request.

        Raises:
            NotBuilt: a stream of inputs, which has no field for a salt.
        """
        if isinstance(prompt, str):
            return {"prompt": prompt, "cache_salt": self.salt(None)}
        if isinstance(prompt, list):
            return {"prompt_token_ids": prompt, "cache_salt": self.salt(None)}
        if isinstance(prompt, Mapping):
            salted = {**prompt, "cache_salt": self.salt(prompt.get("cache_salt"))}
            if isinstance(prompt.get("decoder_prompt"), Mapping):
                salted["decoder_prompt"] = self.salted(prompt["decoder_prompt"])
            return salted
        if hasattr(prompt, "cache_salt"):
            prompt.cache_salt = self.salt(prompt.cache_salt)
            return prompt
        raise NotBuilt("streamed input cannot be kept apart between tenants and is closed")

    def strip(self, params: Any) -> None:
        """Remove a client's orders to the KV connector: only the server gives them."""
        extra = getattr(params, "extra_args", None)
        if not extra:
            return
        if not self.trust_client_kv_transfer_params:
            for name in ("kv_transfer_params", "ec_transfer_params"):
                extra.pop(name, None)
        elif isinstance(given := extra.get("kv_transfer_params"), dict):
            # A trusted router may send the rest; segments to load are named by this server only.
            extra["kv_transfer_params"] = {k: v for k, v in given.items() if k != FIELD}


def current_call() -> EngineCall:
    """The current request; one with its principal alone where no handler described it."""
    return CALL.get() or EngineCall(PRINCIPAL.get() or ENGINE_ITSELF)


def install(engine_client: Any, salter: Salter, queue: FairQueue | None = None) -> None:
    """Put the gateway in front of an engine client. A second call does nothing.

    Args:
        queue: gives each request its priority, in place of the client's; None: all have the same.
    """
    if getattr(engine_client, _MARK, False):
        return
    generate, encode = engine_client.generate, engine_client.encode

    def salted_generate(
        prompt: Any, sampling_params: Any, request_id: str, **kwargs: Any
    ) -> AsyncGenerator[Any, None]:
        call = current_call()
        check_integers(sampling_params, kwargs.get("priority") or 0)
        salter.strip(sampling_params)

        def with_text(text: TextPrompt) -> AsyncGenerator[Any, None]:
            params = sampling_params.clone()
            _order(params, text.kv_orders)
            if params.max_tokens is not None:  # it was counted behind the shorter prompt
                params.max_tokens = min(params.max_tokens, text.context - len(text.tokens))
            whole = {**prompt, "prompt_token_ids": text.tokens}
            return generate(salter.salted(whole), params, f"{request_id}-text", **kwargs)  # type: ignore[no-any-return]

        if call.text is not None:
            _check_places(call, prompt)
        _order(sampling_params, call.kv_orders)
        if call.adapter is not None:
            kwargs["lora_request"] = call.adapter.request
        kwargs["priority"] = _priority(queue, call)
        outputs: AsyncGenerator[Any, None] = generate(
            salter.salted(prompt), sampling_params, request_id, **kwargs
        )
        if call.text is not None and not call.text.is_used:
            outputs = _or_text(outputs, call, with_text)
        if call.is_background:
            return outputs
        counted = _counted(outputs, prompt, sampling_params)
        return _watched(counted, call, salter.in_flight)

    def salted_encode(
        prompt: Any, pooling_params: Any, request_id: str, *args: Any, **kwargs: Any
    ) -> AsyncGenerator[Any, None]:
        if len(args) < 3:  # else the priority is among them
            kwargs["priority"] = _priority(queue, current_call())
        outputs: AsyncGenerator[Any, None] = encode(
            salter.salted(prompt), pooling_params, request_id, *args[:2], **kwargs
        )
        return _counted(outputs, prompt, pooling_params)

    engine_client.generate, engine_client.encode = salted_generate, salted_encode
    setattr(engine_client, _MARK, True)


def _check_places(call: EngineCall, prompt: Any) -> None:
    """See that the prompt with places is the one that was ordered, or that with its text.

    Raises:
        NotBuilt: it is another: its places would be computed.
    """
    text = call.text
    given = prompt.get("prompt_token_ids") if isinstance(prompt, Mapping) else None
    if text is None or given == text.places:
        return
    if given != text.tokens:
        raise NotBuilt("this request changes its prompt: `memory.kv: compact` does not go with it")
    text.is_used, call.private_salt, call.kv_orders = True, None, text.kv_orders


async def _or_text(
    outputs: AsyncGenerator[Any, None],
    call: EngineCall,
    with_text: Callable[[TextPrompt], AsyncGenerator[Any, None]],
) -> AsyncGenerator[Any, None]:
    """The outputs; those of the prompt with its text where the KV of the places could not be loaded.

    Before the first token only: behind it, the error is the client's.
    """
    text, has_begun = call.text, False
    try:
        async for output in outputs:
            choices = _choices(output)
            if not has_begun and any(each.finish_reason == "error" for each in choices):
                break
            has_begun = has_begun or any(each.token_ids for each in choices)
            yield output
        else:
            return
    finally:
        await outputs.aclose()
    assert text is not None
    log.warning("a compact could not be loaded: the request is answered with its text")
    text.is_used, call.private_salt = True, None
    again = with_text(text)
    try:
        async for output in again:
            yield output
    finally:
        await again.aclose()


def _order(params: Any, orders: dict[str, Any] | None) -> None:
    if orders is None:
        return
    extra = dict(params.extra_args or {})
    extra["kv_transfer_params"] = {**(extra.get("kv_transfer_params") or {}), **orders}
    params.extra_args = extra


def _priority(queue: FairQueue | None, call: EngineCall) -> int:
    return queue.priority(call.principal.tenant, call.is_background) if queue is not None else 0


def _counted(
    outputs: AsyncGenerator[Any, None], prompt: Any, params: Any
) -> AsyncGenerator[Any, None]:
    """The same outputs, their tokens counted for the limits of the HTTP request."""
    meter = METER.get()
    return outputs if meter is None else _metered(outputs, meter, prompt, params)


async def _metered(
    outputs: AsyncGenerator[Any, None], meter: Meter, prompt: Any, params: Any
) -> AsyncGenerator[Any, None]:
    known = prompt.get("prompt_token_ids") if isinstance(prompt, Mapping) else None
    kind = getattr(getattr(params, "output_kind", None), "name", "")
    prompt_tokens = len(known or ())
    replies: dict[int, int] = {}  # tokens by number of the choice
    meter.count(prompt_tokens, 0)
    meter.unfinished += 1 if kind == "FINAL_ONLY" else 0
    try:
        async for output in outputs:
            if not prompt_tokens:
                prompt_tokens = len(getattr(output, "prompt_token_ids", None) or ())
                meter.count(prompt_tokens, 0)
            for choice in _choices(output):
                before, count = replies.get(choice.index, 0), len(choice.token_ids)
                replies[choice.index] = count if kind == "CUMULATIVE" else before + count
                meter.count(0, replies[choice.index] - before)
            if kind == "FINAL_ONLY" and output.finished:
                meter.unfinished -= 1
            yield output
    except Exception:  # refused by the engine, or failed: only what was given counts
        meter.count(-prompt_tokens, 0)
        meter.unfinished -= 1 if kind == "FINAL_ONLY" else 0
        raise
    finally:
        await outputs.aclose()


def _choices(output: Any) -> list[Any]:
    """Completions of an output; none of a pooling output, whose `outputs` is a tensor's."""
    found = getattr(output, "outputs", None)
    return [each for each in found if hasattr(each, "token_ids")] if isinstance(found, list) else []


async def _watched(
    outputs: AsyncGenerator[Any, None], call: EngineCall, in_flight: InFlight
) -> AsyncGenerator[Any, None]:
    with in_flight, call.adapter or contextlib.nullcontext():
        try:
            async for output in outputs:
                if call.recorded is not None and not call.recorded.done():
                    await asyncio.shield(call.recorded)
                call.loaded = hits.take(output) or call.loaded
                if call.on_output is not None:
                    call.on_output(output)
                yield output
        finally:
            await outputs.aclose()
