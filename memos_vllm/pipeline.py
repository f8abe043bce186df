"""The path of a chat request, in one function: `Pipeline.chat`.

    identity → read → permit → resolve → attach → render → vLLM → observe → remember

Identity is resolved in `api.auth`, before this; `vLLM` is the `answer` that the caller
hands in.  If memory fails, the chat is answered without it and says so, unless the request insists.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from memos_vllm import metrics, steps
from memos_vllm.cube.ids import now_us
from memos_vllm.errors import (
    AdapterUnavailable,
    DamagedPayload,
    EmbedderUnavailable,
    Forbidden,
    MemoryTimeout,
    Unavailable,
    Unprocessable,
)
from memos_vllm.governance.principal import Role
from memos_vllm.learning.remember import Rememberer
from memos_vllm.plaintext.english import times
from memos_vllm.plaintext.reader.query import MemoryQuery, read_query
from memos_vllm.plaintext.reader.rewrite import Rewriter
from memos_vllm.plaintext.reader.turns import turn_body
from memos_vllm.plaintext.search.search import Found
from memos_vllm.ports import Adapters, Answer, Chat, Model
from memos_vllm.scheduler.attachment import choose, learnt_together, merged
from memos_vllm.scheduler.plan import MemoryPlan
from memos_vllm.scheduler.scheduler import Draft, MemScheduler, hottest_first
from memos_vllm.system import MemorySystem
from memos_vllm.vault.views import AdapterCube, OwnerState

log = logging.getLogger(__name__)
_FIRST_RETRY_SECONDS, _LAST_RETRY_SECONDS = 1.0, 30.0
_WAITING_TURNS = 10_000


class Pipeline:
    def __init__(self, system: MemorySystem, rememberer: Rememberer) -> None:
        self._system = system
        self._rememberer = rememberer
        self._scheduler = MemScheduler(system.config.prompt)
        self._steps = steps.load(system.config.pipeline.recall, system)
        self._background: set[asyncio.Task[Any]] = set()
        self.adapters: Adapters | None = None
        """None: the engine attaches none."""
        self.rewriter: Rewriter | None = None
        """Writes questions out before they are searched for; None: as they were asked."""
        times.load()  # at start, not in front of somebody's question

    async def chat(self, chat: Chat, model: Model, answer: Answer) -> Any:
        """Answer a chat with what the person asking may remember."""
        query = self.read(chat)
        self.permit(chat)
        draft = await self.resolve(chat, query, model)
        await self.attach(chat)
        messages = await self.render(chat, draft, model)
        return await answer(messages)  # when the reply is complete, the caller calls `finish`

    def read(self, chat: Chat) -> MemoryQuery:
        with self._step(chat, "read"):
            return read_query(chat.messages)

    def permit(self, chat: Chat) -> None:
        """Whether this turn is remembered. Raises Forbidden when the request insists and may not."""
        may_write = chat.principal.can(Role.WRITER) and bool(chat.principal.person)
        if chat.options.write and not may_write:
            raise Forbidden(
                "`memory.write` needs a key of the role `writer` and a person (`user` or "
                "`safety_identifier`) whose memory it becomes",
                param="memory.write",
            )
        wanted = chat.store and chat.options.write is not False
        chat.plan.written = wanted and may_write and self._system.config.remember.enabled
        chat.plan.person = chat.principal.person or None

    async def resolve(self, chat: Chat, query: MemoryQuery, model: Model) -> Draft | None:
        """Find and choose memory; None where there is none or it cannot be had."""
        try:
            async with asyncio.timeout(self._system.config.prompt.deadline_seconds):
                return await self._resolve(chat, query, model)
        except TimeoutError:
            self._degrade(chat, MemoryTimeout("memory took longer than its deadline"))
        except Unavailable as error:
            self._degrade(chat, error)
        return None

    async def attach(self, chat: Chat) -> None:
        """Have the plan's adapter ready in the engine."""
        if not chat.parametric or self.adapters is None:
            return
        with self._step(chat, "attach"):
            try:
                chat.adapter = await (chat.preparing or self.adapters.prepare(chat.parametric))
            except (Unavailable, DamagedPayload, Unprocessable) as error:
                if isinstance(error, Unprocessable) and chat.options.adapter:
                    raise  # it was asked for by name
                for entry in chat.plan.entries:
                    if entry.form == "adapter" and entry.decision == "used":
                        entry.decision, entry.reason = "rejected", str(error)
                self._degrade(chat, AdapterUnavailable(str(error)))
                return
        if len(chat.adapter.cubes) > 1:
            merged(chat.plan.entries, chat.adapter.cubes)

    async def render(
        self, chat: Chat, draft: Draft | None, model: Model
    ) -> list[dict[str, Any]] | None:
        """Messages with memory in them, sure to fit; None leaves the request as it came."""
        if draft is None or draft.is_empty():
            return None
        assert draft.plan.budget is not None
        room = draft.plan.budget.context - draft.plan.budget.reply
        if chat.prompt_limit is not None and chat.prompt_limit >= 0:
            room = min(room, chat.prompt_limit)
        with self._step(chat, "render"):
            while not draft.is_empty():
                messages = draft.place(chat.messages)
                length = await model.prompt_tokens(messages)
                if length is not None and length <= room:
                    chat.plan.prompt_tokens = length
                    chat.plan.injected_tokens = sum(entry.tokens for entry in chat.plan.used)
                    metrics.INJECTED_TOKENS.inc(chat.plan.injected_tokens)
                    chat.draft = draft
                    return messages
                over = length - room if length is not None else _tokens(chat.plan) // 2 + 1
                draft.give_way(over, "the prompt would not fit into the context")
        return None

    async def finish(self, chat: Chat, request_id: str, reply: str | None) -> None:
        """Observe, then make the turn durable; the reply's end waits for this only briefly.

        Args:
            reply: None when nothing was answered (an error); such a turn is not remembered.
        """
        chat.plan.request_id = request_id
        metrics.CHATS.labels(_outcome(chat.plan)).inc()
        body = None
        if chat.plan.written and reply is not None:
            body = turn_body(
                chat.messages, reply, model=chat.model_name, request_id=request_id, at_us=now_us()
            )
        if body is not None:
            saving = self._keep(asyncio.create_task(self._save_turn(chat, body)))
            await asyncio.wait({saving}, timeout=self._system.config.remember.durable_wait_seconds)
        self._in_background(self._observe, chat, request_id)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something to its end although the request that began it is over."""
        self._keep(asyncio.create_task(work))

    async def drain(self) -> None:
        """Wait for what is still being written, at shutdown."""
        if self._background:
            await asyncio.wait(set(self._background), timeout=5)

    async def _resolve(self, chat: Chat, query: MemoryQuery, model: Model) -> Draft | None:
        options, views = chat.options, self._system.views
        with self._step(chat, "stable"):
            owners = await asyncio.to_thread(views.owners, chat.principal)
            if not owners and not options.named and self.adapters is None:
                return None
            cubes = await asyncio.to_thread(views.stable, chat.principal, options.named)
            most = self.adapters.most_merged if self.adapters is not None else 1
            chat.parametric, attached = choose(cubes.adapters, options, self._adapter_problem, most)
            if len(chat.parametric) > 1 and (
                whole := await asyncio.to_thread(
                    views.learnt_together, chat.principal, chat.parametric
                )
            ):
                learnt_together(attached, chat.parametric, whole)
                chat.parametric = [whole]
            if self.adapters is not None and chat.parametric:
                chat.preparing = asyncio.ensure_future(self.adapters.prepare(chat.parametric))
                chat.preparing.add_done_callback(_noticed)
            stable = cubes.texts
            if options.order == "hottest":
                stable = hottest_first(stable, cubes.named)
        found: list[Found] = []
        further: list[Found] = []
        top_k = self._system.config.retrieval.top_k if options.top_k is None else options.top_k
        if owners and options.retrieve and query.text and top_k:
            if self.rewriter is not None:
                with self._step(chat, "rewrite"):
                    query = await self.rewriter.rewritten(chat.messages, query)
            with self._step(chat, "embed"):
                vector = await self._embed(chat, query, owners)
            with self._step(chat, "search"):
                result = await asyncio.to_thread(
                    self._system.operator.search,
                    chat.principal,
                    query.text,
                    vector,
                    top_k,
                    owners,
                    query.about_past,
                    True,
                )
            found, further = result.found, result.further
            if self._steps:
                with self._step(chat, "steps"):
                    recall = steps.Recall(chat.principal, query, found, further)
                    recall = await asyncio.to_thread(steps.run, self._steps, recall)
                    found, further = list(recall.found), list(recall.further)
            if result.degraded:
                self._note_degraded(chat, result.degraded)
        with self._step(chat, "plan"):
            budget = self._scheduler.budget(model.tokenizer, options.budget_tokens, chat.max_reply)
            draft = self._scheduler.plan(
                chat.messages,
                stable,
                found,
                budget,
                model.tokenizer,
                named=cubes.named,
                further=further,
            )
        chat.plan.entries, chat.plan.budget = [*draft.plan.entries, *attached], budget
        draft.plan = chat.plan
        return draft

    def _adapter_problem(self, cube: AdapterCube) -> str | None:
        if self.adapters is None:
            return "the server attaches no adapters: start it with --enable-lora"
        return self.adapters.problem(cube)

    async def _embed(self, chat: Chat, query: MemoryQuery, owners: list[OwnerState]) -> Any:
        try:
            return await self._system.embed_question(chat.principal, query.text, owners)
        except EmbedderUnavailable as error:
            if chat.options.required:
                raise
            log.warning("searching by words alone: %s", error)
            self._note_degraded(chat, error.reason)
            return None

    def _degrade(self, chat: Chat, error: Unavailable) -> None:
        if chat.options.required:
            raise error
        log.warning("answering without memory: %s", error)
        self._note_degraded(chat, error.reason)

    def _note_degraded(self, chat: Chat, reason: str) -> None:
        if chat.options.required:
            raise Unavailable(f"memory is required and not whole: {reason} does not answer")
        if reason not in chat.plan.degraded:
            chat.plan.degraded.append(reason)
            metrics.DEGRADED.labels(reason).inc()

    async def _save_turn(self, chat: Chat, body: dict[str, Any]) -> None:
        """Until it succeeds: a vault that is locked or away for a while loses no turn."""
        pause = _FIRST_RETRY_SECONDS
        while True:
            try:
                await asyncio.to_thread(self._rememberer.accept, chat.principal, body)
                return
            except Unavailable as error:
                metrics.DEGRADED.labels("remember").inc()
                if len(self._background) > _WAITING_TURNS:
                    log.error("too many turns wait for the vault; one is lost: %s", error)
                    return
                log.warning("a turn waits %.0f s for the vault: %s", pause, error)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LAST_RETRY_SECONDS)

    def _observe(self, chat: Chat, request_id: str) -> None:
        try:
            self._system.plans.put(chat.principal, request_id, chat.plan.model_dump(mode="json"))
            self._system.views.count_reads(chat.plan.used_cubes())
        except Unavailable as error:
            log.warning("the plan of %s is not kept: %s", request_id, error)

    def _in_background(self, function: Callable[..., None], *args: Any) -> asyncio.Task[None]:
        return self._keep(asyncio.create_task(asyncio.to_thread(function, *args)))

    def _keep(self, task: asyncio.Task[None]) -> asyncio.Task[None]:
        """asyncio itself holds tasks only weakly."""
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    @contextmanager
    def _step(self, chat: Chat, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - started
            chat.plan.steps_ms[name] = round(seconds * 1000, 3)
            metrics.STEP_SECONDS.labels(name).observe(seconds)


def _noticed(task: asyncio.Task[Any]) -> None:
    """An error of a request that did not come so far as to ask is nobody's."""
    if not task.cancelled():
        task.exception()


def _tokens(plan: MemoryPlan) -> int:
    return sum(entry.tokens for entry in plan.used)


def _outcome(plan: MemoryPlan) -> str:
    if plan.degraded:
        return "degraded"
    return "injected" if plan.used else "nothing"
