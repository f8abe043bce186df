"""A cube's KV, built at once: the head of a prompt without anybody's question."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import Any

from memos_vllm.activation.chain import Segment
from memos_vllm.activation.names import SegmentName
from memos_vllm.activation.store import SegmentStore
from memos_vllm.api.activation import SegmentView, Speed, UseView
from memos_vllm.engine.chat.handler import ChatMemory
from memos_vllm.engine.kv.stats import TOTALS
from memos_vllm.engine.kv_plan.builder import ChainBuilder
from memos_vllm.engine.kv_plan.near import NearPlanner
from memos_vllm.engine.kv_plan.planner import Prompt, Writes
from memos_vllm.errors import Unprocessable
from memos_vllm.governance.principal import Principal
from memos_vllm.governance.scope import Scopes
from memos_vllm.options import MemoryOptions
from memos_vllm.pipeline import Pipeline
from memos_vllm.plaintext.reader.query import read_query
from memos_vllm.ports import Chat
from memos_vllm.scheduler.scheduler import Draft, Tokenizer


@dataclasses.dataclass(frozen=True)
class BuiltHead:
    """The beginning of a prompt whose KV is kept."""

    tokens: list[int]
    texts: list[str]
    """What memory says in it, in prompt order."""
    names: list[SegmentName]
    """Of its segments, on the first worker."""


@dataclasses.dataclass
class EngineActivator:
    memory: ChatMemory
    pipeline: Pipeline
    builder: ChainBuilder
    near: NearPlanner
    store: SegmentStore
    scopes: Scopes

    async def activate(
        self, caller: Principal, cubes: list[str], system: str | None
    ) -> tuple[bool, float, list[SegmentView]]:
        """Build the head that requests naming these cubes, in this order, will have.

        Raises:
            Unprocessable: it does not fit, or the prompt cannot be cut behind it.
            SegmentsUnavailable: it was computed and could not be kept.
        """
        return await self.build_head(caller, cubes, system, declared=system is not None)

    async def head(self, caller: Principal, cubes: list[str]) -> BuiltHead:
        """The KV of these cubes at the head of a prompt without a system message, surely kept.

        Raises what `activate` raises.
        """
        rendered = await self._rendered(caller, cubes, None)
        segments = await self._segments(caller, rendered, declared=False)
        await self.builder.build(rendered.prompt.tokens, segments)
        names = self.builder.namer.names(rendered.prompt.tokens, segments)
        texts = [candidate.text for candidate in rendered.draft.stable()]
        return BuiltHead(
            list(rendered.prompt.tokens[: segments[-1].end]), texts, [n[0] for n in names]
        )

    async def build_head(
        self, caller: Principal, cubes: list[str], system: str | None, declared: bool = False
    ) -> tuple[bool, float, list[SegmentView]]:
        """The same. Args: declared: the system message is the tenant's own from now on."""
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
        self, caller: Principal, cubes: list[str], system: str | None
    ) -> _RenderedHead:
        """Raises Unprocessable."""
        messages = [{"role": "system", "content": system}] if system is not None else []
        messages.append({"role": "user", "content": "."})
        options = MemoryOptions(
            cubes=tuple(cubes), retrieve=False, write=False, required=True, adapter=False
        )
        chat = Chat(caller, options, messages, self.memory.default_model, max_reply=1)
        model = _Rendering(self.memory)
        draft = await self.pipeline.resolve(chat, read_query(messages), model)
        rendered = await self.pipeline.render(chat, draft, model)
        if rendered is None or draft is None or model.prompt is None:
            reasons = {entry.reason for entry in chat.plan.entries}
            raise Unprocessable("; ".join(sorted(reasons)) or "there is nothing to build")
        return _RenderedHead(draft, model.prompt)

    async def _segments(
        self, caller: Principal, rendered: _RenderedHead, declared: bool
    ) -> list[Segment]:
        """Those of memory. Raises Unprocessable."""
        draft, prompt = rendered.draft, rendered.prompt
        planner = await self.memory.planner()
        if planner is None:
            raise Unprocessable("there is nothing to build")
        if declared:
            await asyncio.to_thread(planner.declare, caller, draft, prompt)
        chained = planner.chain(caller, draft, prompt, Writes(head=True, history=False))
        if chained.plan.problem or not chained.ends or chained.orders is None:
            raise Unprocessable(chained.plan.problem or "the prompt cannot be cut behind memory")
        end = chained.ends[-1][1]
        return [segment for segment in chained.orders.segments if segment.end <= end]

    def use(self) -> UseView:
        """What loading spared since the server started."""
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


class _Rendering:
    """The pipeline's `Model`, for a prompt that nobody waits for."""

    def __init__(self, memory: ChatMemory) -> None:
        self._memory = memory
        self.prompt: Prompt | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        return self._memory.tokenizer

    async def prompt_tokens(self, messages: list[dict[str, Any]]) -> int | None:
        self.prompt = await self._memory.render_prompt(messages)
        return len(self.prompt.tokens) if self.prompt else None
