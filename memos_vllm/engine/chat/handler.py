"""vLLM's chat handler with memory in front of it.

`ChatMemory.install` replaces `create_chat_completion` and `render_chat_request` of the running
handler (the object, not the class): the names and signatures are the same from vLLM 0.26 to 0.33,
and everything else of the handler (sampling, tools, parsers, errors, streams) stays vLLM's.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import time
from typing import Any

from memos_vllm.engine.chat import routes
from memos_vllm.engine.chat.renderer import PromptRenderer, text_prompt
from memos_vllm.engine.chat.served import ReplyTokens, ServedPrompts, served_prompt
from memos_vllm.engine.chat.stream import StreamWatch, pass_through
from memos_vllm.engine.gateway import CALL, EngineCall, InFlight
from memos_vllm.engine.kv_plan.orders import KVOrders
from memos_vllm.engine.kv_plan.planner import Chained, Prompt
from memos_vllm.engine.lora.attached import EngineAdapters
from memos_vllm.governance.current import PRINCIPAL
from memos_vllm.learning.background import BackgroundTasks
from memos_vllm.options import ZONE_HEADER, read_options, with_zone
from memos_vllm.pipeline import Pipeline
from memos_vllm.ports import Chat, Finish, Messages
from memos_vllm.scheduler.plan import MemoryPlan, PlanEntry
from memos_vllm.scheduler.scheduler import Tokenizer

_MARK = "_memos_chat"


class ChatMemory:
    def __init__(
        self,
        serving: Any,
        renderer: PromptRenderer,
        pipeline: Pipeline,
        kv: KVOrders | None,
        adapters: EngineAdapters | None,
        in_flight: InFlight | None = None,
        served: ServedPrompts | None = None,
    ) -> None:
        """Prepare memory for one chat handler; `install` puts it in.

        Args:
            serving: vLLM's chat handler.
            kv: None: activation memory is off.
            adapters: None: the engine attaches no adapters.
            in_flight: counts requests from their arrival, so that background work yields at once.
            served: takes the prompts of remembered turns; None: no model reads behind them.
        """
        self.served = served
        self._in_flight = in_flight if in_flight is not None else InFlight()
        self.serving = serving
        self.renderer = renderer
        self.kv = kv
        self._pipeline = pipeline
        self._adapters = adapters
        self.answer = serving.create_chat_completion

    def install(self) -> None:
        """Put memory into the handler. A second call for the same handler does nothing."""
        if getattr(self.serving, _MARK, None) is None:
            self.serving.render_chat_request = self.renderer.render
            self.serving.create_chat_completion = self.create_chat_completion
            setattr(self.serving, _MARK, self)

    async def create_chat_completion(self, request: Any, raw_request: Any = None) -> Any:
        """Serve a chat request with memory.

        Raises:
            BadRequest: an unknown key or a bad value in `memory`.
            Unavailable: `memory.required`, and a part of memory does not answer.
        """
        principal = PRINCIPAL.get()
        if principal is None or raw_request is None:
            return await self.answer(request, raw_request)  # not from HTTP: a batch file
        options = with_zone(
            read_options(getattr(request, "memory", None)), raw_request.headers.get(ZONE_HEADER)
        )
        principal = routes.person_of(principal, request).in_persona(options.persona)
        call = EngineCall(principal)
        CALL.set(call)  # this task's context ends with the request
        named, request = await routes.adapter_of(self._adapters, call, request)
        if not options.enabled:
            await routes.attach(self._adapters, call, named)
            return await self.answer(request, raw_request)
        if named is not None:
            options = options.model_copy(update={"adapter": named.cube_id})
        if self.kv is not None and options.kv != "none":
            self.kv.arrived(principal)
        chat = Chat(
            principal=principal,
            options=options,
            messages=request.messages,
            model_name=request.model or self.renderer.model_name,
            max_reply=request.max_completion_tokens or request.max_tokens,
            prompt_limit=request.truncate_prompt_tokens,
            store=getattr(request, "store", None) is not False,
        )
        raw_request.state.memos_plan = chat.plan
        exchange = ChatExchange(
            memory=self, tasks=self._pipeline.tasks, call=call, request=request, raw=raw_request
        )
        with self._in_flight:
            return await self._pipeline.chat(chat, exchange)


@dataclasses.dataclass
class ChatExchange:
    """One request inside vLLM's chat handler. Implements `ports.Exchange`."""

    memory: ChatMemory
    tasks: BackgroundTasks
    call: EngineCall
    request: Any
    raw: Any
    """FastAPI's request."""
    rendered: Any = None
    """The request with memory in its messages."""
    prompt: Prompt | None = None
    chained: Chained | None = None
    started: float = 0.0
    """Seconds of the performance counter, from which the first token is timed."""
    tokens: ReplyTokens | None = None
    """Tokens of the prompt and the reply; None: they are not kept."""

    @property
    def tokenizer(self) -> Tokenizer:
        return self.memory.renderer.tokenizer

    async def prompt_tokens(self, messages: Messages) -> int | None:
        self.rendered = self.request.model_copy(update={"messages": messages})
        prompts = await self.memory.renderer.prompts_of(self.rendered)
        if prompts is None:
            return None
        return sum(len(prompt.get("prompt_token_ids") or ()) for prompt in prompts)

    async def order_kv(self, chat: Chat, messages: Messages | None) -> None:
        self.started = time.perf_counter()
        if self.memory.kv is None or chat.options.kv == "none":
            return
        request = self._request(messages)
        prompts = await self.memory.renderer.prompts_of(request)
        self.prompt = text_prompt(request, prompts) if prompts is not None else None
        if self.prompt is not None:
            self.chained = await self.memory.kv.order(chat, self.prompt, self.call)

    async def answer(self, chat: Chat, messages: Messages | None) -> Any:
        self.call.adapter = chat.adapter
        self.call.on_output = functools.partial(self._observe_output, chat)
        if self.memory.served is not None and chat.plan.written and chat.adapter is None:
            self.tokens = ReplyTokens(bool(self.request.stream))
        return await self.memory.answer(self._request(messages), self.raw)

    async def deliver(self, chat: Chat, reply: Any, finish: Finish) -> Any:
        if hasattr(reply, "__aiter__"):
            return self._stream(chat, reply, finish)
        choices = getattr(reply, "choices", None)
        if choices is None:  # vLLM's ErrorResponse, also where the client went away
            text, reason = ("", "abort") if _is_cancelled() else (None, None)
            await finish(self.request_id, text, reason)
            return reply
        self._keep(chat, reply.id)
        message = choices[0].message
        calls_tool = bool(getattr(message, "tool_calls", None))
        text = _remembered_text(chat, message.content or "", calls_tool=calls_tool)
        await finish(reply.id, text, choices[0].finish_reason)
        reply.memory = summary(chat.plan)
        return reply

    def _stream(self, chat: Chat, chunks: Any, finish: Finish) -> Any:
        options = self.request.stream_options
        with_usage = bool(options and options.include_usage) or getattr(
            self.memory.serving, "enable_force_include_usage", False
        )
        watch = StreamWatch(self.request.n or 1, with_usage)

        async def complete() -> None:
            self._keep(chat, watch.request_id)
            reason = watch.finish_reason or "abort"
            calls_tool = watch.calls_tool and reason != "abort"
            text = _remembered_text(chat, watch.text, calls_tool=calls_tool)
            failed = watch.failed and not watch.text
            await finish(watch.request_id or self.request_id, None if failed else text, reason)

        def abandon() -> None:
            # The client is gone; the person's words, and the text that it was sent, become memory.
            if not chat.finished:
                self.tasks.spawn(complete())

        def memory() -> dict[str, Any]:
            chat.plan.request_id = watch.request_id
            _remembered_text(chat, watch.text, calls_tool=watch.calls_tool)
            return summary(chat.plan)

        # A client may go away before the stream is begun: then none of its code runs.
        self.raw.state.memos_ended = abandon
        return pass_through(chunks, watch=watch, memory=memory, complete=complete, abandon=abandon)

    def _keep(self, chat: Chat, request_id: str | None) -> None:
        """Keep the served prompt, so that the model reads the turn behind it."""
        served = self.memory.served
        if served is None or self.tokens is None or not request_id:
            return
        prompt = served_prompt(
            self.request, chat.messages, self.tokens, self.call.principal, self.call.private_salt
        )
        if prompt is not None:
            served.keep(request_id, prompt)

    def _observe_output(self, chat: Chat, output: Any) -> None:
        self._observe_first_token(chat, output)
        if self.tokens is not None:
            self.tokens.add(output)
        elif self.memory.served is not None and getattr(output, "finished", False):
            self.memory.served.passed(len(getattr(output, "prompt_token_ids", None) or ()))

    def _observe_first_token(self, chat: Chat, output: Any) -> None:
        """Note time, cached tokens and loaded KV when the engine's first output arrives."""
        plan = chat.plan
        if "first_token" in plan.steps_ms:
            return
        plan.steps_ms["first_token"] = round((time.perf_counter() - self.started) * 1000, 3)
        plan.cached_tokens = getattr(output, "num_cached_tokens", None)
        if self.memory.kv is not None and self.chained is not None and self.prompt is not None:
            self.memory.kv.observe(chat, self.prompt, self.chained)
        plan.prompt_tokens = (
            len(getattr(output, "prompt_token_ids", None) or ()) or plan.prompt_tokens
        )

    def _request(self, messages: Messages | None) -> Any:
        return self.request if messages is None else self.rendered

    @property
    def request_id(self) -> str:
        metadata = getattr(self.raw.state, "request_metadata", None)
        return getattr(metadata, "request_id", None) or f"chatcmpl-{self.request.request_id}"


def _remembered_text(chat: Chat, text: str, calls_tool: bool) -> str | None:
    """The reply that the turn is stored with; None: the reply after a tool's result is, and the plan
    says so."""
    if not calls_tool:
        return text
    if chat.plan.written:
        chat.plan.written = False
        chat.plan.not_written = (
            "the reply calls a tool: the turn is stored with the one that follows"
        )
    return None


def _is_cancelled() -> bool:
    """Whether the request was cancelled, which vLLM's handler turns into an error response."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def summary(plan: MemoryPlan) -> dict[str, Any]:
    """The reply's `memory`: cubes used, their cost in tokens and time. `explain` has the rest."""
    cubes: dict[str, dict[str, Any]] = {}
    for entry in plan.used:
        cube = cubes.setdefault(entry.cube, _cube(entry))
        cube["tokens"] += entry.tokens
        if entry.item is not None:
            cube["items"].append({"id": entry.item, "score": entry.score})
            cube["score"] = max(cube["score"] or 0.0, entry.score or 0.0)
    return {
        "cubes": list(cubes.values()),
        "injected_tokens": plan.injected_tokens,
        "cached_tokens": plan.cached_tokens,
        "steps_ms": plan.steps_ms,
        "degraded": plan.degraded,
        "written": plan.written,
        "not_written": plan.not_written,
        "forgot": plan.forgot.model_dump(mode="json") if plan.forgot is not None else None,
        "explain": f"/v1/memory/explain/{plan.request_id}",
    }


def _cube(entry: PlanEntry) -> dict[str, Any]:
    return {
        "id": entry.cube,
        "version": entry.version,
        "kind": entry.kind,
        "name": entry.name,
        "placement": entry.placement,
        "form": entry.form,
        "kv": entry.kv,
        "context": entry.context,
        "expected_kl": entry.expected_kl,
        "score": entry.score,
        "tokens": 0,
        "items": [],
    }
