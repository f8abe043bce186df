"""vLLM's chat handler with memory in front of it.

`ChatMemory.install` replaces `create_chat_completion` and `render_chat_request` of the running
handler (the object, not the class): the names and signatures are the same from vLLM 0.26 to 0.33,
and everything else of the handler (sampling, tools, parsers, errors, streams) stays its own.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from memos_vllm.engine.chat import routes
from memos_vllm.engine.chat.routes import person_of
from memos_vllm.engine.chat.stream import StreamWatch, pass_through
from memos_vllm.engine.gateway import ADAPTER, FRESH_SALT, KV_ORDERS, WATCHER
from memos_vllm.engine.kv_plan.near import NearPlanner
from memos_vllm.engine.kv_plan.planner import Chained, ChainPlanner, Prompt, Writes
from memos_vllm.engine.kv_plan.prefetch import Prefetcher
from memos_vllm.engine.kv_plan.promoter import Head, Promoter
from memos_vllm.engine.lora.attached import EngineAdapters
from memos_vllm.governance.current import PRINCIPAL
from memos_vllm.options import read_options
from memos_vllm.pipeline import Pipeline
from memos_vllm.ports import Chat
from memos_vllm.prompt.layout import CLOSING, control_string_breaker
from memos_vllm.prompt.messages import SYSTEM_ROLES, text_of
from memos_vllm.scheduler.plan import MemoryPlan, PlanEntry
from memos_vllm.scheduler.scheduler import Tokenizer

_EXCHANGE: ContextVar[Exchange | None] = ContextVar("memos_turn", default=None)
_RENDERED: ContextVar[tuple[Any, Any] | None] = ContextVar("memos_rendered", default=None)
_MARK = "_memos_chat"


class ChatMemory:
    def __init__(self, serving: Any, pipeline: Pipeline, default_model: str) -> None:
        from vllm.exceptions import VLLMClientError

        self._refusals = (VLLMClientError, ValueError)
        self._serving = serving
        self._pipeline = pipeline
        self.default_model = default_model
        self._render = serving.render_chat_request
        self._answer = serving.create_chat_completion
        self._tokenizer: Tokenizer | None = None
        self._make_planner: Callable[[Any], ChainPlanner] | None = None
        self._planner: ChainPlanner | None = None
        self.near: NearPlanner | None = None
        self.promoter: Promoter | None = None
        self.prefetcher: Prefetcher | None = None
        self.adapters: EngineAdapters | None = None

    def install(self) -> None:
        """Once per handler; a second call does nothing."""
        if getattr(self._serving, _MARK, None) is None:
            self._serving.render_chat_request = self.render_chat_request
            self._serving.create_chat_completion = self.create_chat_completion
            setattr(self._serving, _MARK, self)

    @property
    def tokenizer(self) -> Tokenizer:
        """The served model's, for counting and for breaking up its control strings."""
        if self._tokenizer is None:
            inner = self.inner_tokenizer
            added: dict[str, int] = getattr(inner, "get_added_vocab", dict)()
            strings = [*getattr(inner, "all_special_tokens", []), *added]
            self._tokenizer = Tokenizer(
                count=lambda text: len(inner.encode(text, add_special_tokens=False)),
                escape=control_string_breaker(strings),
                context=self._serving.model_config.max_model_len,
            )
        return self._tokenizer

    @property
    def inner_tokenizer(self) -> Any:
        """As vLLM has it."""
        return self._serving.renderer.get_tokenizer()

    @property
    def block_size(self) -> int:
        size: int = self._serving.engine_client.vllm_config.cache_config.block_size
        return size

    def plan_kv_with(self, make: Callable[[Any], ChainPlanner], near: NearPlanner) -> None:
        """Switch activation memory on. Args: make: of the tokenizer."""
        self._make_planner, self.near = make, near

    async def planner(self) -> ChainPlanner | None:
        """None while activation memory is off."""
        if self._planner is None and self._make_planner is not None:
            planner = self._make_planner(self.inner_tokenizer)
            plain = await self.render_prompt([{"role": "user", "content": _MARK}])
            if plain is not None:
                planner.plain_head = plain.text.partition(_MARK)[0]
            self._planner = planner
        return self._planner

    async def render_chat_request(self, request: Any) -> Any:
        """vLLM's rendering; a request that was rendered to measure it is not rendered again."""
        rendered = _RENDERED.get()
        if rendered is not None and rendered[0] is request:
            _RENDERED.set(None)
            result = rendered[1]
        else:
            result = await self._render(request)
        turn = _EXCHANGE.get()
        if turn is not None and isinstance(result, tuple):
            await turn.order_kv(request, result[1])
        return result

    async def create_chat_completion(self, request: Any, raw_request: Any = None) -> Any:
        principal = PRINCIPAL.get()
        if principal is None or raw_request is None:
            return await self._answer(request, raw_request)  # not from HTTP: a batch file
        options = read_options(getattr(request, "memory", None))
        principal = person_of(principal, request).in_persona(options.persona)
        PRINCIPAL.set(principal)  # for the engine's salt; this task's context ends with the request
        named, request = await routes.adapter_of(self.adapters, principal, request)
        if not options.enabled:
            await routes.attach(self.adapters, named)
            return await self._answer(request, raw_request)
        if named is not None:
            options = options.model_copy(update={"adapter": named.cube_id})
        if self.prefetcher is not None and options.kv != "none":
            self.prefetcher.arrived(principal)
        chat = Chat(
            principal=principal,
            options=options,
            messages=request.messages,
            model_name=request.model or self.default_model,
            max_reply=request.max_completion_tokens or request.max_tokens,
            prompt_limit=request.truncate_prompt_tokens,
            store=getattr(request, "store", None) is not False,
        )
        return await Exchange(self, self._pipeline, chat, request, raw_request).run(self._answer)

    async def render_prompt(self, messages: list[dict[str, Any]]) -> Prompt | None:
        """What the engine would get for these messages; None: it refuses them, or takes no text."""
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

        given: list[Any] = list(messages)
        request = ChatCompletionRequest(messages=given, model=self.default_model)
        try:
            result = await self._render(request)
        except self._refusals:
            return None
        return _prompt_of(request, result[1]) if isinstance(result, tuple) else None

    async def tail_of(self, question: str) -> list[int] | None:
        """Tokens behind memory at the head, up to the reply; None: the template does not say."""
        system = {"role": "system", "content": _MARK}
        prompt = await self.render_prompt([system, {"role": "user", "content": question}])
        if prompt is None or _MARK not in prompt.text:
            return None
        tail = CLOSING + prompt.text.partition(_MARK)[2]
        tokens: list[int] = self._serving.renderer.get_tokenizer().encode(
            tail, add_special_tokens=False
        )
        return tokens

    async def measure(self, request: Any) -> int | None:
        """Tokens of a request's prompt; keeps the rendering for the handler. None: refused."""
        try:
            result = await self._render(request)
        except self._refusals:
            return None  # too long, most likely; the handler will say so if memory is not the cause
        if not isinstance(result, tuple):
            return None
        _, prompts = result
        _RENDERED.set((request, result))
        return sum(len(prompt.get("prompt_token_ids") or ()) for prompt in prompts)


@dataclasses.dataclass
class Exchange:
    """One chat request inside vLLM's handler: the `Model` that the pipeline sees."""

    memory: ChatMemory
    pipeline: Pipeline
    chat: Chat
    request: Any
    raw_request: Any
    started: float = dataclasses.field(default_factory=time.perf_counter)
    rendered: Any = None
    prompt: Prompt | None = None
    chained: Chained | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        return self.memory.tokenizer

    async def prompt_tokens(self, messages: list[dict[str, Any]]) -> int | None:
        self.rendered = self.request.model_copy(update={"messages": messages})
        return await self.memory.measure(self.rendered)

    async def run(self, answer: Callable[..., Any]) -> Any:
        async def with_messages(messages: list[dict[str, Any]] | None) -> Any:
            request = self.request if messages is None else self.rendered
            WATCHER.set(self._watch)
            ADAPTER.set(self.chat.adapter)
            _EXCHANGE.set(self)
            self.started = time.perf_counter()
            return await answer(request, self.raw_request)

        self.raw_request.state.memos_plan = self.chat.plan
        reply = await self.pipeline.chat(self.chat, self, with_messages)
        if hasattr(reply, "__aiter__"):
            return self._stream(reply)
        choices = getattr(reply, "choices", None)
        if choices is None:  # vLLM's ErrorResponse
            await self.pipeline.finish(self.chat, self._request_id(), None)
            return reply
        # A call of a tool says nothing yet: the turn is remembered with the reply that follows it.
        await self.pipeline.finish(self.chat, reply.id, choices[0].message.content or None)
        reply.memory = summary(self.chat.plan)
        return reply

    async def order_kv(self, request: Any, prompts: Any) -> None:
        """Tell the connector what of this prompt it may load and keep."""
        if self.chat.options.kv == "none" or (planner := await self.memory.planner()) is None:
            return
        prompt = self.prompt = _prompt_of(request, prompts)
        if prompt is None:
            return
        self.chained = planner.chain(
            self.chat.principal,
            self.chat.draft,
            prompt,
            Writes(head=self.chat.store, history=self.chat.plan.written),
            self.chat.adapter.cubes if self.chat.adapter is not None else (),
        )
        self.chat.plan.kv = self.chained.plan
        if self.chat.adapter is None:  # near, building and prefetching are the base model's
            if self.chat.options.kv == "near" and self.memory.near is not None:
                await self.memory.near.plan(self.chat.principal, prompt, self.chained)
                FRESH_SALT.set(self.chained.salt)
            self._note_head()
        if self.chained.orders is not None:
            KV_ORDERS.set(self.chained.orders.to_params())

    def _note_head(self) -> None:
        """Count the use of this head of the prompt, for when one of its cubes changes."""
        promoter, chained = self.memory.promoter, self.chained
        if promoter is None or chained is None or not chained.ends:
            return
        first = self.chat.messages[0]
        end = chained.ends[-1][1]
        head = Head(
            self.chat.principal,
            self.chat.options.cubes,
            text_of(first) if first.get("role") in SYSTEM_ROLES else None,
            frozenset(entry.cube for entry, _ in chained.ends),
        )
        last = next(s for s in chained.plan.segments if s.end == end)
        promoter.note(head, last.shared)

    def _note_use(self, chained: Chained) -> None:
        prefetcher, orders = self.memory.prefetcher, chained.orders
        if prefetcher is None or self.prompt is None or orders is None or self.chat.adapter:
            return
        if orders.save:  # nothing of what is not to be stored, and nothing approximate
            prefetcher.answered(self.chat.principal, self.prompt, orders.segments)

    def _stream(self, chunks: Any) -> Any:
        options = self.request.stream_options
        with_usage = bool(options and options.include_usage) or getattr(
            self.memory._serving, "enable_force_include_usage", False
        )
        watch = StreamWatch(self.request.n or 1, with_usage)

        async def complete() -> None:
            await self.pipeline.finish(
                self.chat, watch.request_id or self._request_id(), watch.text or None
            )

        def abandon() -> None:
            # The client is gone; what the model had said by then was said.
            self.pipeline.spawn(complete())

        def memory() -> dict[str, Any]:
            self.chat.plan.request_id = watch.request_id
            return summary(self.chat.plan)

        return pass_through(chunks, watch, memory, complete, abandon)

    def _watch(self, output: Any) -> None:
        plan = self.chat.plan
        if "first_token" not in plan.steps_ms:
            plan.steps_ms["first_token"] = round((time.perf_counter() - self.started) * 1000, 3)
            plan.cached_tokens = getattr(output, "num_cached_tokens", None)
            if self.chained is not None:
                self.chained.observe(plan.cached_tokens or 0, self.memory.block_size)
                if self.chained.near and self.memory.near is not None and self.prompt is not None:
                    self.memory.near.heal(self.prompt, self.chained)
                self._note_use(self.chained)
            plan.prompt_tokens = (
                len(getattr(output, "prompt_token_ids", None) or ()) or plan.prompt_tokens
            )

    def _request_id(self) -> str:
        metadata = getattr(self.raw_request.state, "request_metadata", None)
        return getattr(metadata, "request_id", None) or f"chatcmpl-{self.request.request_id}"


def _prompt_of(request: Any, prompts: Any) -> Prompt | None:
    """Text and tokens of a rendered request, where it is one prompt of text alone."""
    if len(prompts) != 1 or not prompts[0].get("prompt") or "mm_kwargs" in prompts[0]:
        return None
    return Prompt(
        prompts[0]["prompt"],
        prompts[0]["prompt_token_ids"],
        getattr(request, "cache_salt", None),
    )


def summary(plan: MemoryPlan) -> dict[str, Any]:
    """The reply's `memory`: what was used, at what cost. The rest is in `explain`."""
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
