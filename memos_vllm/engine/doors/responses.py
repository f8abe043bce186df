"""`/v1/responses`: OpenAI's newer protocol, with its state kept in the vault.

vLLM's own store mixes tenants and never deletes, so it stays off. Here a request's history is looked up
under the person before vLLM sees it: vLLM gets the whole conversation as `input`, without
`previous_response_id`, and the reply is stored before its end is sent.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import uuid
from collections.abc import AsyncGenerator, Callable
from typing import Any

from memos_vllm.engine.chat.door import Door, Parts
from memos_vllm.engine.chat.handler import ChatExchange, is_cancelled, remembered_text
from memos_vllm.engine.chat.renderer import PromptRenderer
from memos_vllm.engine.doors import items
from memos_vllm.engine.gateway import EngineCall
from memos_vllm.errors import BadRequest, Erased, Unavailable
from memos_vllm.governance.principal import Principal, Role, Scope
from memos_vllm.options import MemoryOptions
from memos_vllm.ports import Chat, Finish, Messages
from memos_vllm.vault.responses import Items, ResponseStore, StoredResponse

log = logging.getLogger(__name__)


class ResponsesRenderer(PromptRenderer):
    method = "_render_resolved_response_inputs"

    async def rendered(self, request: Any) -> Any:
        return await self._render(request, None)

    def prompts_in(self, rendering: Any) -> list[Any] | None:
        prompt = getattr(rendering, "engine_input", None)
        return None if prompt is None else [prompt]


@dataclasses.dataclass(frozen=True, slots=True)
class Thread:
    """The conversation that a request continues."""

    new: Items
    """Items of the request itself."""
    items: Items
    """All of them, what was stored before first."""
    instructions: str | None
    previous: str | None
    conversation: str | None
    kept_no: str | None
    """Why the reply is not stored; None: it is."""

    @property
    def messages(self) -> Messages:
        head: Messages = []
        if self.instructions:
            head = [{"role": "system", "content": self.instructions}]
        return [*head, *items.messages_of(self.items)]


class ResponsesMemory(Door):
    method = "create_responses"

    def __init__(
        self, serving: Any, renderer: PromptRenderer, parts: Parts, store: ResponseStore | None
    ) -> None:
        """
        Args:
            store: of replies; None: they are not stored.
        """
        super().__init__(serving, renderer, parts)
        self.store = store

    async def opened(
        self, request: Any, raw: Any, principal: Principal, options: MemoryOptions
    ) -> tuple[Principal, Any]:
        raw.state.memos_body = body = await raw.json()
        previous, conversation = request.previous_response_id, _conversation(request)
        if previous and conversation:
            raise BadRequest(
                "a request continues a response or a conversation: leave `previous_response_id` or "
                "`conversation` away",
                param="conversation",
            )
        if not options.enabled and (previous or conversation):
            raise BadRequest(
                "`previous_response_id` and `conversation` are kept by memory: they need "
                "`memory.enabled`",
                param="memory.enabled",
            )
        if conversation and principal.session is None:
            principal = principal.as_person(None, conversation)
        before = await asyncio.to_thread(self._before, principal, previous, conversation)
        new = items.items_of(body["input"])
        kept_no = self._kept_no(request, principal, options)
        if kept_no is None and self.store is not None:
            await asyncio.to_thread(self.store.check_room, principal, new)
        raw.state.memos_thread = Thread(
            new,
            [*items.continued(before), *new],
            request.instructions,
            previous,
            conversation,
            kept_no,
        )
        # The id is the server's: a client could choose one that is stored already.
        return principal, request.model_copy(update={"request_id": f"resp_{uuid.uuid4().hex}"})

    def chat_of(
        self, request: Any, raw: Any, body: Any, principal: Principal, options: MemoryOptions
    ) -> Chat:
        return Chat(
            principal=principal,
            options=options,
            messages=raw.state.memos_thread.messages,
            model_name=request.model or self.renderer.model_name,
            max_reply=request.max_output_tokens,
            store=request.store is not False or options.write is True,
        )

    def exchange(self, request: Any, raw: Any, call: EngineCall) -> ChatExchange:
        return ResponsesExchange(
            self,
            self.parts.pipeline.tasks,
            call=call,
            request=request,
            raw=raw,
            thread=raw.state.memos_thread,
            body=raw.state.memos_body,
            store=self.store,
        )

    def _before(
        self, principal: Principal, previous: str | None, conversation: str | None
    ) -> Items:
        if not previous and not conversation:
            return []
        if self.store is None:
            raise BadRequest("this server keeps no responses: `responses.store` is off")
        if conversation:
            return self.store.items(principal, conversation)
        return self.store.history(principal, previous or "")

    def _kept_no(self, request: Any, principal: Principal, options: MemoryOptions) -> str | None:
        if request.store is False:
            return "the request says so (`store`)"
        if self.store is None:
            return "`responses.store` is off"
        if not options.enabled:
            return "memory is off for this request (`memory.enabled`)"
        if not principal.can(Role.WRITER):
            return "the key has the role `reader`"
        if not principal.has_scope(Scope.WRITE):
            return f"the token or key lacks the scope `{Scope.WRITE}`"
        return None


@dataclasses.dataclass
class ResponsesExchange(ChatExchange):
    thread: Thread = dataclasses.field(kw_only=True)
    body: dict[str, Any] = dataclasses.field(kw_only=True)
    """As the client sent it."""
    store: ResponseStore | None = dataclasses.field(kw_only=True)
    stored: bool = False
    without_memory: Any = None
    """The request with the conversation that it continues, and no memory."""

    def placed(self, messages: Messages) -> Any:
        """The request with the conversation in it, and memory at its places."""
        thread, instructions = self.thread, self.thread.instructions
        if instructions:
            instructions, messages = messages[0]["content"], messages[1:]
        # Without instructions, memory of the head may stand in the first user message.
        placed = [
            item
            if before["content"] == after["content"]
            else items.with_content(item, after["content"])
            for item, before, after in zip(
                thread.items, items.messages_of(thread.items), messages, strict=True
            )
        ]
        return self._given(placed, instructions)

    def _given(self, placed: Items, instructions: str | None) -> Any:
        """The request as vLLM parses it, with these items as its input."""
        given = {
            **self.body,
            "model": self.request.model,
            "input": placed,
            "instructions": instructions,
            "request_id": self.request.request_id,
            "previous_response_id": None,
        }
        return type(self.request).model_validate(given)

    def _request(self, messages: Messages | None) -> Any:
        if messages is not None:
            return self.rendered
        if self.thread.items == self.thread.new and not self.thread.previous:
            return self.request
        if self.without_memory is None:
            self.without_memory = self._given(self.thread.items, self.thread.instructions)
        return self.without_memory

    async def deliver(self, chat: Chat, reply: Any, finish: Finish) -> Any:
        if hasattr(reply, "__aiter__"):
            return self._events(chat, reply, finish)
        if not hasattr(reply, "output"):  # vLLM's ErrorResponse, also where the client went away
            text, reason = ("", "abort") if is_cancelled() else (None, None)
            await finish(self.request_id, text, reason)
            return reply
        await self._complete(chat, reply, finish)
        return reply

    async def _complete(self, chat: Chat, reply: Any, finish: Finish) -> None:
        """Remember the turn, store the reply, and put `memory` into it."""
        self._keep(chat, reply.id)
        output = [items.plain(item) for item in reply.output]
        text = remembered_text(
            chat, items.text_of_output(output), calls_tool=items.calls_tool(output)
        )
        await finish(reply.id, text, _REASONS.get(reply.status, reply.status))
        self._restore(reply)
        await self._store(chat, reply)
        reply.memory = self.told(chat)

    def told(self, chat: Chat) -> dict[str, Any]:
        kept_no = self.thread.kept_no
        return {**super().told(chat), "stored": self.stored, "not_stored": kept_no}

    def _restore(self, reply: Any) -> None:
        """What vLLM repeats of the request, as the client sent it: without memory and the history."""
        reply.instructions = self.thread.instructions
        reply.previous_response_id = self.thread.previous
        if self.thread.conversation:
            reply.conversation = {"id": self.thread.conversation}
        reply.store = self.thread.kept_no is None

    async def _store(self, chat: Chat, reply: Any) -> None:
        if self.thread.kept_no is not None or self.store is None:
            return
        stored = StoredResponse(
            reply.id,
            self.thread.conversation,
            self.thread.previous,
            self.thread.new,
            reply.model_dump(mode="json", by_alias=True),
        )
        try:
            self.stored = await asyncio.to_thread(self.store.put, self.call.principal, stored)
        except (Unavailable, Erased) as error:
            log.warning("the response %s is not stored: %s", reply.id, error)
            reason = error.reason if isinstance(error, Unavailable) else error.code
            if reason not in chat.plan.degraded:
                chat.plan.degraded.append(reason)

    def _events(
        self, chat: Chat, events: AsyncGenerator[Any, None], finish: Finish
    ) -> AsyncGenerator[Any, None]:
        said: list[str] = []

        def abandon() -> None:
            # The client is gone; the person's words, and the text that it was sent, become memory.
            if not chat.finished:
                self.tasks.spawn(told())

        async def told() -> None:
            await finish(self.request_id, "".join(said), "abort")

        # A client may go away before the stream is begun: then none of its code runs.
        self.raw.state.memos_ended = abandon
        return self._passed(chat, events, finish, said, abandon)

    async def _passed(
        self,
        chat: Chat,
        events: AsyncGenerator[Any, None],
        finish: Finish,
        said: list[str],
        abandon: Callable[[], None],
    ) -> AsyncGenerator[Any, None]:
        """The same events; the response in the last one has `memory`."""
        try:
            async for event in events:
                kind = getattr(event, "type", "")
                if kind == "response.output_text.delta":
                    said.append(event.delta)
                elif kind == "response.completed":
                    await self._complete(chat, event.response, finish)
                elif kind in ("response.created", "response.in_progress"):
                    self._restore(event.response)
                elif kind in ("error", "response.failed") and not said:
                    await finish(self.request_id, None, "error")
                yield event
        finally:
            await events.aclose()
            abandon()

    @property
    def request_id(self) -> str:
        name: str = self.request.request_id
        return name


_REASONS = {"completed": "stop", "incomplete": "length", "cancelled": "abort"}


def _conversation(request: Any) -> str | None:
    """`conversation` of a request: an id, or an object with one.

    Raises:
        BadRequest: neither.
    """
    given = getattr(request, "conversation", None)
    if isinstance(given, dict):
        given = given.get("id")
    if given is None or isinstance(given, str):
        return given or None
    raise BadRequest("`conversation` must be an id, or an object with one", param="conversation")
