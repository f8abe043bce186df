"""A handler of vLLM with memory in front of it: one path for every protocol.

`Door.serve` is that path: identity, options, adapter, then `Pipeline.chat`. A subclass knows the shapes of
one protocol: where its body names a person, what it says, and how memory gets into it
(`chat.handler.ChatExchange` and its subclasses). vLLM's handler does the rest.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from memos_vllm.engine.chat import routes
from memos_vllm.engine.chat.renderer import PromptRenderer
from memos_vllm.engine.chat.served import ServedPrompts
from memos_vllm.engine.gateway import CALL, EngineCall, InFlight
from memos_vllm.engine.kv_plan.orders import KVOrders
from memos_vllm.engine.lora.attached import EngineAdapters
from memos_vllm.governance.affinity import affinity_of
from memos_vllm.governance.current import PRINCIPAL
from memos_vllm.governance.principal import Principal
from memos_vllm.options import ZONE_HEADER, MemoryOptions, read_options, with_zone
from memos_vllm.pipeline import Pipeline
from memos_vllm.ports import Chat, Exchange


@dataclasses.dataclass(frozen=True)
class Parts:
    """What every door of one server shares."""

    pipeline: Pipeline
    kv: KVOrders | None = None
    """None: activation memory is off."""
    adapters: EngineAdapters | None = None
    """None: the engine attaches no adapters."""
    in_flight: InFlight = dataclasses.field(default_factory=InFlight)
    """Counts requests from their arrival, so that background work yields at once."""
    served: ServedPrompts | None = None
    """Takes the prompts of remembered turns; None: no model reads behind them."""


class Door:
    method: ClassVar[str]
    """Method of vLLM's handler that serves a request."""

    def __init__(self, serving: Any, renderer: PromptRenderer, parts: Parts) -> None:
        """Prepare memory for one handler; `install` puts it in.

        Args:
            serving: vLLM's handler.
            renderer: of this handler.
        """
        self.serving = serving
        self.renderer = renderer
        self.parts = parts
        self.answer = getattr(serving, self.method)

    @property
    def kv(self) -> KVOrders | None:
        return self.parts.kv

    @property
    def served(self) -> ServedPrompts | None:
        return self.parts.served

    def install(self) -> None:
        """Put memory into the handler. A second call for the same handler does nothing."""
        if not routes.is_named(self.serving):
            self.renderer.install()
            setattr(self.serving, self.method, self.serve)
            routes.name(self.serving)

    async def serve(self, request: Any, raw_request: Any = None) -> Any:
        """Serve a request with memory; in place of the handler's method.

        Raises:
            BadRequest: an unknown key or a bad value in `memory`.
            Unavailable: `memory.required`, and a part of memory does not answer.
        """
        principal = PRINCIPAL.get()
        if principal is None or raw_request is None:
            return await self.answer(request, raw_request)  # not from HTTP: a batch file
        body = await self.body_of(request, raw_request)
        options = with_zone(
            read_options(getattr(body, "memory", None)), raw_request.headers.get(ZONE_HEADER)
        )
        principal = routes.person_of(principal, body).in_persona(options.persona)
        principal, request = await self.opened(request, raw_request, principal, options)
        raw_request.state.memos_affinity = affinity_of(raw_request.headers, principal)
        call = EngineCall(principal)
        CALL.set(call)  # this task's context ends with the request
        named, request = await routes.adapter_of(self.parts.adapters, call, request)
        if not options.enabled:
            await routes.attach(self.parts.adapters, call, named)
            return await self.answer(request, raw_request)
        if named is not None:
            options = options.model_copy(update={"adapter": named.cube_id})
        if self.kv is not None and options.kv != "none":
            self.kv.arrived(principal)
        with self.parts.in_flight:
            return await self.remembering(request, raw_request, body, options, call)

    async def remembering(
        self, request: Any, raw: Any, body: Any, options: MemoryOptions, call: EngineCall
    ) -> Any:
        """Send one conversation through the pipeline."""
        chat = self.chat_of(request, raw, body, call.principal, options)
        raw.state.memos_plan = chat.plan
        return await self.parts.pipeline.chat(chat, self.exchange(request, raw, call))

    async def body_of(self, request: Any, raw: Any) -> Any:
        """The fields `memory`, `user`, … of the body, as attributes."""
        return request

    async def opened(
        self, request: Any, raw: Any, principal: Principal, options: MemoryOptions
    ) -> tuple[Principal, Any]:
        """Look up what the request continues, once its person is known."""
        return principal, request

    def chat_of(
        self, request: Any, raw: Any, body: Any, principal: Principal, options: MemoryOptions
    ) -> Chat:
        """The conversation that a request continues."""
        raise NotImplementedError

    def exchange(self, request: Any, raw: Any, call: EngineCall) -> Exchange:
        """The request inside vLLM's handler."""
        raise NotImplementedError
