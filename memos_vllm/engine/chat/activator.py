"""Building a cube's KV on request: the head of a prompt without a question."""

from __future__ import annotations

import asyncio
import dataclasses
import time

from memos_vllm.activation.chain import Segment
from memos_vllm.activation.names import SegmentName
from memos_vllm.activation.store import SegmentStore
from memos_vllm.api.activation import SegmentView, Speed, UseView
from memos_vllm.engine.chat.renderer import PromptRenderer
from memos_vllm.engine.kv.stats import TOTALS
from memos_vllm.engine.kv_plan.builder import ChainBuilder
from memos_vllm.engine.kv_plan.near import NearPlanner
from memos_vllm.engine.kv_plan.planner import ChainPlanner, Prompt, Writes
from memos_vllm.errors import Unprocessable
from memos_vllm.governance.principal import Principal
from memos_vllm.governance.scope import Scopes
from memos_vllm.options import MemoryOptions
from memos_vllm.pipeline import Pipeline
from memos_vllm.ports import Chat, Messages
from memos_vllm.scheduler.draft import Draft
from memos_vllm.scheduler.scheduler import Tokenizer


@dataclasses.dataclass(frozen=True)
class BuiltHead:
    """Head of a prompt whose KV is stored."""

    tokens: list[int]
    texts: list[str]
    """Text of each cube in it, in prompt order."""
    names: list[SegmentName]
    """Names of its segments, on the first worker."""


@dataclasses.dataclass
class EngineActivator:
    renderer: PromptRenderer
    pipeline: Pipeline
    planner: ChainPlanner
    builder: ChainBuilder
    near: NearPlanner
    store: SegmentStore
    scopes: Scopes

    async def activate(
        self, caller: Principal, cubes: list[str], system: str | None
    ) -> tuple[bool, float, list[SegmentView]]:
        """Build the head of requests that name these cubes in this order.

        Returns:
            (False where its KV was stored already, seconds, its segments)

        Raises:
            Unprocessable: it does not fit, or the prompt cannot be cut behind it.
            SegmentsUnavailable: it was computed and not stored.
        """
        return await self.build_head(caller, cubes, system, declared=system is not None)

    async def head(self, caller: Principal, cubes: list[str]) -> BuiltHead:
        """Build and store the KV of these cubes at the head of a prompt without a system message.

        Raises:
            Unprocessable, SegmentsUnavailable: as `activate`.
        """
        rendered = await self._rendered(caller, cubes, None)
        segments = await self._segments(caller, rendered, declared=False)
        await self.builder.build(rendered.prompt.tokens, segments)
        names = self.builder.namer.names(rendered.prompt.tokens, segments)
        texts = [candidate.text for candidate in rendered.draft.stable()]
        return BuiltHead(
            list(rendered.prompt.tokens[: segments[-1].end]), texts, [n[0] for n in names]
        )

    async def build_front(self, caller: Principal, cube: str) -> None:
        """Build the KV of a prompt in front of its first cube. Raises as `activate`."""
        whole = self.renderer.tokenizer.context
        rendered = await self._rendered(caller, [cube], None, budget=whole)
        segments = await self._segments(caller, rendered, declared=False)
        if len(segments) > 1:
            await self.builder.build(rendered.prompt.tokens, segments[:1])

    async def build_head(
        self, caller: Principal, cubes: list[str], system: str | None, declared: bool = False
    ) -> tuple[bool, float, list[SegmentView]]:
        """Build a head as `activate` does.

        Args:
            declared: the system message belongs to the tenant from now on.
        """
        started = time.perf_counter()
        rendered = await self._rendered(caller, cubes, system)
        segments = await self._segments(caller, rendered, declared)
        prompt = rendered.prompt
        built = await self.builder.build(prompt.tokens, segments)
        if built:
            self.near.measure_others(caller, prompt, segments)
        names = self.builder.namer.names(prompt.tokens, segments)
        shared = self.scopes.tenant(caller)
        starts = [0, *(segment.end for segment in segments)]
        views = [
            SegmentView(
                end=segment.end,
                tokens=segment.end - start,
                shared=segment.scope == shared,
                tier=self.store.where(name[0]),
            )
            for segment, start, name in zip(segments, starts, names, strict=False)
        ]
        return built, round(time.perf_counter() - started, 3), views

    async def _rendered(
        self, caller: Principal, cubes: list[str], system: str | None, budget: int | None = None
    ) -> _RenderedHead:
        """Render a prompt with these cubes at its head.

        Args:
            budget: tokens of memory; None: the configured number.

        Raises:
            Unprocessable: they do not fit.
        """
        messages: Messages = [{"role": "system", "content": system}] if system is not None else []
        messages.append({"role": "user", "content": "."})
        options = MemoryOptions(
            cubes=tuple(cubes),
            retrieve=False,
            write=False,
            required=True,
            adapter=False,
            budget_tokens=budget,
        )
        chat = Chat(
            caller,
            options=options,
            messages=messages,
            model_name=self.renderer.model_name,
            max_reply=1,
        )
        model, draft = _RenderingModel(self.renderer), None
        async with self.pipeline.within_deadline(chat):
            memory = await self.pipeline.stable(chat)
            draft = self.pipeline.plan(chat, memory, model)
        rendered = await self.pipeline.render(chat, draft, model)
        if rendered is None or draft is None or model.prompt is None:
            reasons = {entry.reason for entry in chat.plan.entries}
            raise Unprocessable("; ".join(sorted(reasons)) or "there is nothing to build")
        return _RenderedHead(draft, model.prompt)

    async def _segments(
        self, caller: Principal, rendered: _RenderedHead, declared: bool
    ) -> list[Segment]:
        """Segments of the prompt's head.

        Raises:
            Unprocessable: the prompt cannot be cut behind memory.
        """
        draft, prompt = rendered.draft, rendered.prompt
        if declared:
            await asyncio.to_thread(self.planner.declare, caller, draft, prompt)
        writes = Writes(head=True, history=False)
        chained = self.planner.chain(caller, draft=draft, prompt=prompt, writes=writes)
        if chained.plan.problem or not chained.ends or chained.orders is None:
            raise Unprocessable(chained.plan.problem or "the prompt cannot be cut behind memory")
        end = chained.ends[-1][1]
        return [segment for segment in chained.orders.segments if segment.end <= end]

    def use(self) -> UseView:
        """Hits, tokens and time that loading has saved since the server started."""
        counts = TOTALS
        speed = Speed(
            prefill=_each_second(counts["prefill_tokens"], counts["prefill_seconds"]),
            ram=_each_second(counts["read_tokens_ram"], counts["read_seconds_ram"]),
            disk=_each_second(counts["read_tokens_disk"], counts["read_seconds_disk"]),
        )
        loaded = counts["loaded_tokens_ram"] + counts["loaded_tokens_disk"]
        saved = loaded / speed.prefill - counts["load_seconds"] if speed.prefill else None
        return UseView(
            hits=int(counts["loaded_segments"]),
            loaded_tokens_ram=int(counts["loaded_tokens_ram"]),
            loaded_tokens_disk=int(counts["loaded_tokens_disk"]),
            saved_tokens=int(counts["saved_tokens"]),
            load_failures=int(counts["load_failures"]),
            save_failures=int(counts["save_failures"]),
            load_seconds=round(counts["load_seconds"], 3),
            saved_prefill_seconds=None if saved is None else round(saved, 3),
            tokens_per_second=speed,
        )


def _each_second(amount: float, seconds: float) -> float | None:
    return round(amount / seconds, 1) if seconds else None


@dataclasses.dataclass(frozen=True)
class _RenderedHead:
    draft: Draft
    prompt: Prompt


class _RenderingModel:
    """`ports.Model` for a prompt without a request."""

    def __init__(self, renderer: PromptRenderer) -> None:
        self._renderer = renderer
        self.prompt: Prompt | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        return self._renderer.tokenizer

    def tokenizer_for(self, chat: Chat) -> Tokenizer:
        return self.tokenizer

    async def prompt_tokens(self, messages: Messages) -> int | None:
        self.prompt = await self._renderer.prompt(messages)
        return len(self.prompt.tokens) if self.prompt else None
