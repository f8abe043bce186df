"""The path of a chat request, in one function: `Pipeline.chat`.

    authenticate → read → permit → recent → stable → rewrite → embed → search → steps → plan
                 → attach → render → order KV → answer → deliver (→ finish: observe, remember)

Authentication is done in front of the routes (`api`), before this; the engine is an `Exchange`
(`ports`). Where a part of memory fails, the chat is answered with less of it and says so, unless the
request insists (`memory.required`).
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from memos_vllm import metrics, steps, tracing
from memos_vllm.errors import (
    AdapterUnavailable,
    DamagedPayload,
    EmbedderUnavailable,
    Erased,
    Forbidden,
    MemoryTimeout,
    Unavailable,
    Unprocessable,
)
from memos_vllm.governance.principal import Role, Scope
from memos_vllm.learning.background import BackgroundTasks
from memos_vllm.learning.reads import ReadRecorder
from memos_vllm.learning.remember import Rememberer
from memos_vllm.learning.saving import TurnSaver, not_written, orders_of
from memos_vllm.options import with_kv
from memos_vllm.plaintext.english import times
from memos_vllm.plaintext.reader.query import MemoryQuery, read_query
from memos_vllm.plaintext.reader.rewrite import Rewriter
from memos_vllm.ports import AdapterLoader, Chat, Exchange, Messages, Model
from memos_vllm.prompt.layout import Reader
from memos_vllm.scheduler.attachment import merged
from memos_vllm.scheduler.candidates import Candidates
from memos_vllm.scheduler.clock import Clock
from memos_vllm.scheduler.draft import Draft
from memos_vllm.scheduler.scheduler import MemScheduler, hottest_first
from memos_vllm.scheduler.sieve import sifted
from memos_vllm.steps import as_of
from memos_vllm.steps.adapters import AdapterChooser
from memos_vllm.steps.kept import KeptSteps
from memos_vllm.system import MemorySystem

log = logging.getLogger(__name__)
_OVERFETCH, _DEEPER = 3, 4
"""Results ranked for each place, and how many times more where most of them repeat something."""


class Pipeline:
    def __init__(
        self,
        system: MemorySystem,
        rememberer: Rememberer,
        tasks: BackgroundTasks,
        adapters: AdapterLoader | None = None,
        rewriter: Rewriter | None = None,
    ) -> None:
        """
        Args:
            tasks: run what goes on after a reply.
            adapters: None: the engine attaches no adapters.
            rewriter: writes a question out before it is searched for; None: it is searched as asked.
        """
        self._system = system
        self._saver = TurnSaver(rememberer, tasks, system.config.remember)
        self._adapters = adapters
        self._rewriter = rewriter
        self._reads = ReadRecorder(system.audit.reads, system.config.governance.audit)
        self._chooser = AdapterChooser(system.views, adapters)
        self._scheduler = MemScheduler(system.config.prompt, system.config.retrieval)
        self._kept = KeptSteps(system)
        self._steps = steps.load(system.config.pipeline.recall, system)
        self.tasks = tasks
        times.load()  # at start: the first call takes a second

    async def chat(self, chat: Chat, exchange: Exchange) -> Any:
        """Answer a chat with the memory that its person may read, as far as it is found in time."""
        memory, vector = Candidates(), None
        query = self.read(chat)
        self.permit(chat)
        with self.stored_when_abandoned(chat, exchange):
            await self.forget(chat)
            await self._saver.check_quota(chat)
            clock = Clock.started(self._system.config.prompt.deadline_seconds)
            async with self.within_deadline(chat, "recent", clock):
                with self._step(chat, "recent"):
                    await self._saver.until_known(chat)
            async with self.within_deadline(chat, "stable", clock):
                memory = await self.stable(chat)
            async with self.within_deadline(chat, "rewrite", clock):
                query = await self.rewrite(chat, query, memory)
            async with self.within_deadline(chat, "embed", clock):
                vector = await self.embed(chat, query, memory)
            async with self.within_deadline(chat, "search", clock):
                await self.search(chat, query=query, vector=vector, memory=memory)
            async with self.within_deadline(chat, "words", clock):
                await self.search_words(chat, query, memory)
            async with self.within_deadline(chat, "steps", clock):
                await self.run_steps(chat, query, memory)
                memory.kept = await self._kept.read(chat, memory)
            draft = self.plan(chat, memory, exchange)
            await self.attach(chat)
            messages = await self.render(chat, draft, exchange)
            await self._reads.begin(chat, exchange.request_id)
            await exchange.order_kv(chat, messages)
            reply = await exchange.answer(chat, messages)
        return await exchange.deliver(chat, reply, finish=functools.partial(self.finish, chat))

    def read(self, chat: Chat) -> MemoryQuery:
        """The question that memory is searched for."""
        with self._step(chat, "read"):
            return read_query(chat.asked, self._saver.now(chat))

    def permit(self, chat: Chat) -> None:
        """Decide whether this turn is remembered.

        Raises:
            Forbidden: the request insists on writing and its key or its lack of a person forbids it.
        """
        may_write = (
            chat.principal.can(Role.WRITER)
            and chat.principal.has_scope(Scope.WRITE)
            and bool(chat.principal.person)
        )
        if chat.options.write and not may_write:
            raise Forbidden(
                "`memory.write` needs a key of the role `writer` and a person (`user` or "
                "`safety_identifier`) whose memory it becomes",
                param="memory.write",
            )
        policy = self._system.policies.policy_of(chat.principal.tenant)
        chat.plan.not_written = not_written(chat, self._system.config.remember, policy)
        chat.options = with_kv(chat.options, policy.kv if policy.allows("activation") else None)
        chat.plan.written = chat.plan.not_written is None
        chat.plan.person = chat.principal.person or None

    async def forget(self, chat: Chat) -> None:
        """Carry out orders to forget before memory is read: the prompt has no more of it."""
        if (found := orders_of(chat)) is not None:
            with self._step(chat, "forget"):
                await self._saver.forget(chat, found)

    @contextmanager
    def stored_when_abandoned(self, chat: Chat, exchange: Exchange) -> Iterator[None]:
        """Store the person's words when the client goes away before a reply, which cancels the steps."""
        try:
            yield
        except asyncio.CancelledError:
            self.tasks.spawn(self.finish(chat, exchange.request_id, "", "abort"))
            raise

    @asynccontextmanager
    async def within_deadline(
        self, chat: Chat, step: str = "stable", clock: Clock | None = None
    ) -> AsyncIterator[None]:
        """Leave the step inside when it is late or unavailable, and note it: the others go on without.

        Args:
            clock: of the request; None: it begins here.
        """
        clock = clock or Clock.started(self._system.config.prompt.deadline_seconds)
        try:
            async with asyncio.timeout_at(clock.end_of(step)):
                yield
        except TimeoutError:
            self._degrade(chat, MemoryTimeout(step))
        except Unavailable as error:
            self._degrade(chat, error)

    async def stable(self, chat: Chat) -> Candidates:
        """Owners with memory, cubes for the head of the prompt, and adapters to attach.

        A principal without any memory costs one indexed read.
        """
        options, views = chat.options, self._system.views
        with self._step(chat, "stable"):
            if options.as_of is not None:
                return await as_of.candidates(self._system, chat, self._chooser)
            owners = await asyncio.to_thread(views.owners, chat.principal)
            if not owners and not options.named and self._adapters is None:
                return Candidates()
            cubes = await asyncio.to_thread(views.stable, chat.principal, options.named)
            texts = cubes.texts
            if options.order == "hottest":
                texts = hottest_first(texts, cubes.named)
            entries = await self._chooser.choose(chat, cubes.adapters)
            return Candidates(owners, stable=texts, named=cubes.named, adapters=entries)

    async def rewrite(self, chat: Chat, query: MemoryQuery, memory: Candidates) -> MemoryQuery:
        """The question written out by a model, where the configuration says so."""
        if self._rewriter is None or not self._top_k(chat, query, memory):
            return query
        with self._step(chat, "rewrite"):
            return await self._rewriter.rewritten(chat.asked, query)

    async def embed(self, chat: Chat, query: MemoryQuery, memory: Candidates) -> Any:
        """(dim,) of the question; None: there is no search, or it goes by words alone."""
        if not self._top_k(chat, query, memory):
            return None
        with self._step(chat, "embed"):
            try:
                return await self._system.embed_question(chat.principal, query.text, memory.owners)
            except EmbedderUnavailable as error:
                if chat.options.required:
                    raise
                log.warning("lexical search only, the embedder failed: %s", error)
                self._note_degraded(chat, error.reason)
                return None

    async def search(self, chat: Chat, query: MemoryQuery, vector: Any, memory: Candidates) -> None:
        """Find the items that match best the question, or its `vector`: (dim,), None: by words alone."""
        top_k = self._top_k(chat, query, memory)
        if not top_k:
            return
        with self._step(chat, "search"):
            depth = top_k * _OVERFETCH
            find = functools.partial(
                (memory.past or self._system.operator).search,
                chat.principal,
                query.text,
                vector,
                top_k=top_k,
                owners=memory.owners,
                about_past=query.about_past,
                further=True,
            )
            while True:
                result = await asyncio.to_thread(find, depth=depth)
                ranked = [*result.found, *result.further]
                new = sifted(ranked, chat.messages)
                if len(new) >= 2 * top_k or len(ranked) < depth:
                    break
                depth *= _DEEPER  # most results repeat the conversation or the question
        memory.found = new[:top_k]
        if vector is not None and not result.degraded and memory.past is None:
            with_beliefs = self._system.operator.with_beliefs
            memory.found = await asyncio.to_thread(
                with_beliefs, chat.principal, memory.found, vector, memory.owners
            )
        best = {each.recalled.item.id for each in memory.found}
        memory.further = [each for each in ranked if each.recalled.item.id not in best]
        if result.degraded:
            self._note_degraded(chat, result.degraded)

    async def search_words(self, chat: Chat, query: MemoryQuery, memory: Candidates) -> None:
        """Search by words alone where the search with vectors was late."""
        if MemoryTimeout("search").reason in chat.plan.degraded:
            await self.search(chat, query=query, vector=None, memory=memory)

    async def run_steps(self, chat: Chat, query: MemoryQuery, memory: Candidates) -> None:
        """Run the configured steps between search and budget (`pipeline.recall`)."""
        is_late = MemoryTimeout("words").reason in chat.plan.degraded
        is_past = memory.past is not None  # steps read the memory of now
        if not self._steps or is_late or is_past or not self._top_k(chat, query, memory):
            return
        with self._step(chat, "steps"):
            recall = steps.Recall(
                chat.principal, query=query, found=memory.found, further=memory.further
            )
            recall = await asyncio.to_thread(steps.run, self._steps, recall)
        memory.found, memory.further = recall.found, recall.further

    def plan(self, chat: Chat, memory: Candidates, model: Model) -> Draft | None:
        """Choose what fits the budget; None: the principal has no memory."""
        if not memory.owners and not chat.options.named and self._adapters is None:
            return None
        with self._step(chat, "plan"):
            tokenizer, asked = model.tokenizer_for(chat), chat.options.budget_tokens
            most = self._system.limits_of(chat.principal.tenant).injected_tokens
            budget = self._scheduler.budget(tokenizer, asked, chat.max_reply, most)
            draft = self._scheduler.plan(
                chat.messages,
                stable=memory.stable,
                found=memory.found,
                budget=budget,
                tokenizer=tokenizer,
                named=memory.named,
                further=memory.further,
                places=self._configured_top_k(chat),
                reader=Reader(chat.principal.person, self._saver.now(chat)),
                kept=memory.kept,
            )
        chat.plan.entries, chat.plan.budget = [*draft.plan.entries, *memory.adapters], budget
        draft.plan = chat.plan
        return draft.leave_out(chat.options.without)

    async def attach(self, chat: Chat) -> None:
        """Load the plan's adapter into the engine."""
        if not chat.parametric or self._adapters is None:
            return
        with self._step(chat, "attach"):
            try:
                chat.adapter = await (chat.preparing or self._adapters.prepare(chat.parametric))
            except (Unavailable, DamagedPayload, Unprocessable) as error:
                if isinstance(error, Unprocessable) and chat.options.adapter:
                    raise  # the request names this adapter
                for entry in chat.plan.entries:
                    if entry.form == "adapter" and entry.decision == "used":
                        entry.decision, entry.reason = "rejected", str(error)
                self._degrade(chat, AdapterUnavailable(str(error)))
                return
        if len(chat.adapter.cubes) > 1:
            merged(chat.plan.entries, chat.adapter.cubes)

    async def render(self, chat: Chat, draft: Draft | None, model: Model) -> Messages | None:
        """Messages with memory that fit the context; None leaves the request as it came."""
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
                    chat.plan.injected_tokens = chat.plan.memory_tokens
                    metrics.INJECTED_TOKENS.inc(chat.plan.injected_tokens)
                    chat.draft = draft
                    self._kept.note(chat, draft)
                    return messages
                over = length - room if length is not None else chat.plan.memory_tokens // 2 + 1
                draft.give_way(over, "the prompt would not fit into the context")
        chat.without_memory = True
        return None

    async def finish(
        self, chat: Chat, request_id: str, reply: str | None, finish_reason: str | None = None
    ) -> None:
        """Observe the request and store its turn durably; the reply's end waits only briefly.

        Args:
            request_id: of vLLM.
            reply: text, which may be empty; None: the turn is not remembered (an error, a tool call).
            finish_reason: of the engine; "abort" where the client went away.
        """
        if chat.finished:
            return
        chat.finished = True
        chat.plan.request_id = request_id
        metrics.CHATS.labels(chat.plan.outcome).inc()
        if chat.plan.written and reply is not None:
            await self._saver.save(chat, request_id, reply, finish_reason)
        self._system.plans.expect(chat.principal, request_id)
        self.tasks.spawn(asyncio.to_thread(self._observe, chat, request_id))

    def _top_k(self, chat: Chat, query: MemoryQuery, memory: Candidates) -> int:
        """Number of items to search for; 0: there is no search for this request."""
        searches = memory.owners and chat.options.retrieve and query.text
        return self._configured_top_k(chat) if searches else 0

    def _configured_top_k(self, chat: Chat) -> int:
        configured: int = self._system.config.retrieval.top_k
        return configured if chat.options.top_k is None else chat.options.top_k

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

    def _observe(self, chat: Chat, request_id: str) -> None:
        try:
            self._system.plans.put(chat.principal, request_id, chat.plan.model_dump(mode="json"))
            self._reads.end(chat, recorded=True)
            self._system.views.count_reads(chat.plan.used_cubes())
            self._system.bundle_usage.count(chat.plan.used_tokens())
        except (Unavailable, Erased) as error:
            self._reads.end(chat, recorded=False)
            log.warning("the plan of request %s is not stored: %s", request_id, error)

    @contextmanager
    def _step(self, chat: Chat, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            with tracing.span(name):
                yield
        finally:
            seconds = time.perf_counter() - started
            chat.plan.steps_ms[name] = round(seconds * 1000, 3)
            metrics.STEP_SECONDS.labels(name).observe(seconds)
