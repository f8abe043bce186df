"""The one way from HTTP into the engine: every prompt gets the salt of whoever asks.

`install` replaces `generate` and `encode` of the running engine client (the object, not the class),
which all of vLLM's handlers call: chat, completions, responses, messages, pooling, beam search.  So
no route, present or future, can forget the salt.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncGenerator, Callable, Mapping
from contextvars import ContextVar
from typing import Any, Literal, Protocol

from memos_vllm.activation.orders import FIELD
from memos_vllm.cube.ids import TenantId
from memos_vllm.errors import NotBuilt
from memos_vllm.governance.current import PRINCIPAL
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.governance.salt import cache_salt

ENGINE_ITSELF = Principal(TenantId(""), Role.READER, "engine")
"""Whoever asks outside a request (warm-up, health checks): a salt that no tenant can have."""


class Adapter(Protocol):
    """An adapter on its way into the engine; entered while the engine computes with it."""

    @property
    def request(self) -> Any: ...
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


Watcher = Callable[[Any], None]
WATCHER: ContextVar[Watcher | None] = ContextVar("memos_watcher", default=None)
"""Called with each of the engine's outputs for the current request."""

KV_ORDERS: ContextVar[dict[str, Any] | None] = ContextVar("memos_kv_orders", default=None)
"""Our own orders to the KV connector for the current request."""

FRESH_SALT: ContextVar[str | None] = ContextVar("memos_fresh_salt", default=None)
"""Narrows the current request's salt to itself: its blocks are approximate."""

ADAPTER: ContextVar[Adapter | None] = ContextVar("memos_adapter", default=None)
"""What is attached to the model for the current request."""

BACKGROUND: ContextVar[bool] = ContextVar("memos_background", default=False)
"""Work of ours that gives way to people's requests."""

_MARK = "_memos_salted"


class InFlight:
    """How many people's requests the engine works on."""

    def __init__(self) -> None:
        self._count = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def __enter__(self) -> None:
        self._count += 1
        self._idle.clear()

    def __exit__(self, *_: object) -> None:
        self._count -= 1
        if not self._count:
            self._idle.set()

    async def idle(self, seconds: float) -> None:
        """Wait until there are none, and no longer than this."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)


@dataclasses.dataclass(frozen=True)
class Salter:
    secret: bytes
    isolation: Literal["person", "tenant"]
    trust_client_kv_transfer_params: bool
    in_flight: InFlight = dataclasses.field(default_factory=InFlight)

    def salt(self, client_salt: str | None) -> str:
        principal = PRINCIPAL.get() or ENGINE_ITSELF
        if (fresh := FRESH_SALT.get()) is not None:
            client_salt = f"{fresh}{client_salt or ''}"
        return cache_salt(self.secret, principal, self.isolation, client_salt)

    def salted(self, prompt: Any) -> Any:
        """The prompt with its salt. Forms: text, token ids, a prompt's dict, an engine request.

        Raises:
            NotBuilt: a stream of inputs, which has no place for a salt.
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
        """Orders to the KV connector come from the server alone."""
        extra = getattr(params, "extra_args", None)
        if not extra:
            return
        if not self.trust_client_kv_transfer_params:
            for name in ("kv_transfer_params", "ec_transfer_params"):
                extra.pop(name, None)
        elif isinstance(given := extra.get("kv_transfer_params"), dict):
            # Whose KV is loaded is said here alone, whoever else is trusted with the rest.
            extra["kv_transfer_params"] = {k: v for k, v in given.items() if k != FIELD}


def install(engine_client: Any, salter: Salter) -> None:
    """Once per engine client; a second call does nothing."""
    if getattr(engine_client, _MARK, False):
        return
    generate, encode = engine_client.generate, engine_client.encode

    def salted_generate(
        prompt: Any, sampling_params: Any, request_id: str, **kwargs: Any
    ) -> AsyncGenerator[Any, None]:
        salter.strip(sampling_params)
        _order(sampling_params, KV_ORDERS.get())
        if (adapter := ADAPTER.get()) is not None:
            kwargs["lora_request"] = adapter.request
        outputs: AsyncGenerator[Any, None] = generate(
            salter.salted(prompt), sampling_params, request_id, **kwargs
        )
        if BACKGROUND.get():
            return outputs
        return _watched(outputs, WATCHER.get(), salter.in_flight, adapter)

    def salted_encode(
        prompt: Any, pooling_params: Any, request_id: str, *args: Any, **kwargs: Any
    ) -> AsyncGenerator[Any, None]:
        outputs: AsyncGenerator[Any, None] = encode(
            salter.salted(prompt), pooling_params, request_id, *args, **kwargs
        )
        return outputs

    engine_client.generate, engine_client.encode = salted_generate, salted_encode
    setattr(engine_client, _MARK, True)


def _order(params: Any, orders: dict[str, Any] | None) -> None:
    if orders is None:
        return
    extra = dict(params.extra_args or {})
    extra["kv_transfer_params"] = {**(extra.get("kv_transfer_params") or {}), **orders}
    params.extra_args = extra


async def _watched(
    outputs: AsyncGenerator[Any, None],
    watcher: Watcher | None,
    in_flight: InFlight,
    adapter: Adapter | None,
) -> AsyncGenerator[Any, None]:
    with in_flight, adapter or contextlib.nullcontext():
        try:
            async for output in outputs:
                if watcher is not None:
                    watcher(output)
                yield output
        finally:
            await outputs.aclose()
