"""vLLM's chat handler with memory in front of it.

`Door.install` replaces `create_chat_completion` and `render_chat_request` of the running handler (the
object, not the class): the names and signatures are the same from vLLM 0.26 to 0.33, and everything else
of the handler (sampling, tools, parsers, errors, streams) stays vLLM's.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import time
from typing import Any, ClassVar

from memos_vllm import metrics
from memos_vllm.activation.hits import hits_of
from memos_vllm.engine.chat.door import Door
from memos_vllm.engine.chat.renderer import text_prompt
from memos_vllm.engine.chat.served import ReplyTokens, served_prompt
from memos_vllm.engine.chat.stream import StreamWatch, pass_through
from memos_vllm.engine.gateway import EngineCall
from memos_vllm.engine.kv_plan.planner import Chained, Prompt
from memos_vllm.governance.principal import Principal
from memos_vllm.learning.background import BackgroundTasks
from memos_vllm.options import MemoryOptions
from memos_vllm.ports import Chat, Finish, Messages
from memos_vllm.scheduler.plan import CachedTokens, MemoryPlan, PlanEntry
from memos_vllm.scheduler.scheduler import Tokenizer


class ChatMemory(Door):
    method = "create_chat_completion"

    def chat_of(
        self, request: Any, raw: Any, body: Any, principal: Principal, options: MemoryOptions
    ) -> Chat:
        return Chat(
            principal=principal,
            options=options,
            messages=request.messages[:-1] if _continues(request) else request.messages,
            model_name=request.model or self.renderer.model_name,
            max_reply=request.max_completion_tokens or request.max_tokens,
            prompt_limit=request.truncate_prompt_tokens,
            store=getattr(body, "store", None) is not False,
        )

    def exchange(self, request: Any, raw: Any, call: EngineCall) -> ChatExchange:
        return ChatExchange(self, self.parts.pipeline.tasks, call=call, request=request, raw=raw)


@dataclasses.dataclass
class ChatExchange:
    """One request inside a handler of vLLM. Implements `ports.Exchange`."""

    continues: ClassVar[bool] = True
    """Whether a model may read the turn behind the served prompt: it was rendered by the chat template."""
    prefix: ClassVar[str] = "chatcmpl"
    """Of the id of a request."""

    memory: Door
    tasks: BackgroundTasks
    call: EngineCall
    request: Any
    raw: Any
    """FastAPI's request."""
    rendered: Any = None
    """The request with memory in its messages."""
    prompt: Prompt | None = None
    text: Prompt | None = None
    """The prompt with the text of its compacts."""
    chained: Chained | None = None
    started: float = 0.0
    """Seconds of the performance counter, from which the first token is timed."""
    tokens: ReplyTokens | None = None
    """Tokens of the prompt and the reply; None: they are not kept."""

    @property
    def tokenizer(self) -> Tokenizer:
        return self.memory.renderer.tokenizer

    def tokenizer_for(self, chat: Chat) -> Tokenizer:
        if self.memory.kv is None or chat.options.kv != "compact":
            return self.tokenizer
        places = self.memory.kv.places_for(chat.principal)
        return dataclasses.replace(self.tokenizer, places=places)

    async def prompt_tokens(self, messages: Messages) -> int | None:
        self.rendered = self.placed(messages)
        prompts = await self.memory.renderer.prompts_of(self.rendered)
        if prompts is None:
            return None
        return sum(len(prompt.get("prompt_token_ids") or ()) for prompt in prompts)

    def placed(self, messages: Messages) -> Any:
        """The request with these messages in place of its own, and the reply that it continues behind them."""
        begun = self.request.messages[-1:] if _continues(self.request) else []
        return self.request.model_copy(update={"messages": [*messages, *begun]})

    async def order_kv(self, chat: Chat, messages: Messages | None) -> None:
        self.started = time.perf_counter()
        if self.memory.kv is None or chat.options.kv == "none":
            return
        request = self._request(messages)
        prompts = await self.memory.renderer.prompts_of(request)
        self.prompt = text_prompt(request, prompts) if prompts is not None else None
        if self.prompt is None or prompts is None:
            return
        self.text, reads_prompt = self.prompt, _reads_prompt(request)
        self.chained, self.prompt = await self.memory.kv.order(
            chat, self.prompt, self.call, reads_prompt
        )
        if self.chained.compacts:
            prompts[0]["prompt_token_ids"] = list(self.prompt.tokens)

    async def answer(self, chat: Chat, messages: Messages | None) -> Any:
        self.call.adapter = chat.adapter
        self.call.recorded = chat.recorded
        self.call.on_output = functools.partial(self._observe_output, chat)
        if (
            self.continues
            and self.memory.served is not None
            and chat.plan.written
            and chat.adapter is None
            and not (self.chained is not None and self.chained.compacts)
        ):
            self.tokens = ReplyTokens(bool(self.request.stream))
        return await self.memory.answer(self._request(messages), self.raw)

    async def deliver(self, chat: Chat, reply: Any, finish: Finish) -> Any:
        if hasattr(reply, "__aiter__"):
            return self._stream(chat, reply, finish)
        choices = getattr(reply, "choices", None)
        if choices is None:  # vLLM's ErrorResponse, also where the client went away
            text, reason = ("", "abort") if is_cancelled() else (None, None)
            await finish(self.request_id, text, reason)
            return reply
        self._keep(chat, reply.id)
        said, calls_tool = self.said_in(choices[0])
        text = remembered_text(chat, said, calls_tool=calls_tool)
        await finish(reply.id, text, choices[0].finish_reason)
        reply.memory = self.told(chat)
        return reply

    @property
    def choices(self) -> int:
        """Number of choices in the reply."""
        count: int = self.request.n or 1
        return count

    def said_in(self, choice: Any) -> tuple[str, bool]:
        """The text of a reply, and whether it calls a tool."""
        message = choice.message
        return message.content or "", bool(getattr(message, "tool_calls", None))

    def told(self, chat: Chat) -> dict[str, Any]:
        """`memory` of the reply."""
        return summary(chat.plan)

    def _stream(self, chat: Chat, chunks: Any, finish: Finish) -> Any:
        options = self.request.stream_options
        with_usage = bool(options and options.include_usage) or getattr(
            self.memory.serving, "enable_force_include_usage", False
        )
        watch = StreamWatch(self.choices, with_usage)

        async def complete() -> None:
            self._keep(chat, watch.request_id)
            reason = watch.finish_reason or "abort"
            calls_tool = watch.calls_tool and reason != "abort"
            text = remembered_text(chat, watch.text, calls_tool=calls_tool)
            failed = watch.failed and not watch.text
            await finish(watch.request_id or self.request_id, None if failed else text, reason)

        def abandon() -> None:
            # The client is gone; the person's words, and the text that it was sent, become memory.
            if not chat.finished:
                self.tasks.spawn(complete())

        def memory() -> dict[str, Any]:
            chat.plan.request_id = watch.request_id
            remembered_text(chat, watch.text, calls_tool=watch.calls_tool)
            return self.told(chat)

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
        if getattr(output, "finished", False):
            self._note_hits(chat)
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
        if self.call.text is not None and self.call.text.is_used and self.chained is not None:
            self.chained, self.prompt = self.chained.text, self.text
            plan.kv = self.chained.plan if self.chained is not None else None
            if plan.kv is not None:
                plan.kv.problem = "text instead of compact: its KV could not be loaded"
        if self.memory.kv is not None and self.chained is not None and self.prompt is not None:
            self.memory.kv.observe(chat, self.prompt, self.chained)
        plan.prompt_tokens = (
            len(getattr(output, "prompt_token_ids", None) or ()) or plan.prompt_tokens
        )

    def _note_hits(self, chat: Chat) -> None:
        """Note where the cached tokens came from, which the engine reports with its last output."""
        plan = chat.plan
        if plan.cached or not plan.cached_tokens:
            return
        head, near = self.chained.borders() if self.chained is not None else (0, [])
        places = self.chained.places() if self.chained is not None else []
        for each in hits_of(plan.cached_tokens, self.call.loaded, head, near, places):
            plan.cached.append(CachedTokens(**dataclasses.asdict(each)))
            metrics.CACHED_TOKENS.labels(each.kind, each.source).inc(each.tokens)

    def _request(self, messages: Messages | None) -> Any:
        return self.request if messages is None else self.rendered

    @property
    def request_id(self) -> str:
        metadata = getattr(self.raw.state, "request_metadata", None)
        if known := getattr(metadata, "request_id", None):
            return str(known)
        # As vLLM's handler will name it.
        return f"{self.prefix}-{self.raw.headers.get('X-Request-Id', self.request.request_id)}"


def remembered_text(chat: Chat, text: str, calls_tool: bool) -> str | None:
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


def _continues(request: Any) -> bool:
    """Whether the last message is the beginning of the reply: no part of what memory is searched for, and
    what repeats it is not left out of the prompt."""
    return bool(getattr(request, "continue_final_message", False)) and len(request.messages) > 1


def _reads_prompt(request: Any) -> bool:
    """Whether the reply depends on the ids of the prompt's tokens."""
    penalty = getattr(request, "repetition_penalty", None)
    return bool(
        (penalty is not None and penalty != 1.0)
        or getattr(request, "prompt_logprobs", None) is not None
        or getattr(request, "echo", False)
        or getattr(request, "use_beam_search", False)
    )


def is_cancelled() -> bool:
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
        "as_of": plan.as_of.isoformat() if plan.as_of is not None else None,
        "injected_tokens": plan.injected_tokens,
        "cached_tokens": plan.cached_tokens,
        "cached": [each.model_dump() for each in plan.cached],
        "steps_ms": plan.steps_ms,
        "degraded": plan.degraded,
        "skipped": plan.skipped,
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
        "places": entry.places,
        "expected_kl": entry.expected_kl,
        "score": entry.score,
        "tokens": 0,
        "items": [],
    }
