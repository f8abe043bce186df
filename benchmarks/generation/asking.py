"""Models that answer: a memos_vllm server, or any other server with memory placed in this process.

Both are asked through the `openai` client, one request at a time, streaming, at temperature 0.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from openai import OpenAI

from benchmarks.generation.dataset import History
from memos_vllm.config.load import load_config
from memos_vllm.cube.ids import PersonId
from memos_vllm.demo.embedder import minilm_path
from memos_vllm.governance.principal import LOCAL_TENANT, Principal, Role
from memos_vllm.learning.background import BackgroundTasks
from memos_vllm.learning.queue import JobQueue
from memos_vllm.learning.remember import Rememberer
from memos_vllm.options import MemoryOptions
from memos_vllm.pipeline import Pipeline
from memos_vllm.ports import Chat, Finish
from memos_vllm.scheduler.scheduler import Tokenizer
from memos_vllm.system import MemorySystem
from tests.engine.harness import MODEL, Server

Messages = list[dict[str, Any]]
FRAMING_TOKENS = 8
"""Upper bound of the tokens that a chat template adds to a message, where they cannot be counted."""


@dataclasses.dataclass(frozen=True, slots=True)
class Reply:
    text: str
    prompt_tokens: int
    memory_tokens: int
    """Tokens of the prompt that are memory."""
    first_token_ms: float
    whole_ms: float


class Asker(Protocol):
    model: str
    context: int
    """Context length of the model, in tokens."""

    def learn(self, history: History) -> None:
        """Store a history as the memory of its person."""

    def count(self, messages: Messages) -> int:
        """Tokens of the prompt."""

    def ask(self, person: str, messages: Messages, max_tokens: int, *, memory: bool) -> Reply:
        """Answer a chat. Raises RuntimeError: memory was wanted and is degraded."""


class OwnServer:
    """A memos_vllm server: memory is stored by its API and used by its chats."""

    def __init__(self, server: Server, model: str, context: int, top_k: int) -> None:
        self.model, self.context = model, context
        self._server, self._top_k = server, top_k
        self._client = server.client()

    def learn(self, history: History) -> None:
        with self._server.http(person=history.person) as http:
            for cube in history.cubes():
                body = cube.model_dump(mode="json", exclude_none=True)
                http.post("/v1/memory/cubes", json=body).raise_for_status()

    def count(self, messages: Messages) -> int:
        with self._server.http() as http:
            reply = http.post("/tokenize", json={"model": MODEL, "messages": messages})
            reply.raise_for_status()
            tokens: int = reply.json()["count"]
            return tokens

    def ask(self, person: str, messages: Messages, max_tokens: int, *, memory: bool) -> Reply:
        wanted: dict[str, Any] = {"enabled": False}
        if memory:
            wanted = {"top_k": self._top_k, "write": False, "required": True}
        extra = {"memory": wanted}
        return stream(self._client, MODEL, messages, max_tokens, user=person, extra_body=extra)


class Elsewhere:
    """A model behind any OpenAI-compatible URL; memory is searched and placed in this process.

    Its tokenizer is not known here: the budget is counted in tokens of the embedder.
    """

    def __init__(
        self, home: Path, client: OpenAI, model: str, context: int, top_k: int = 8
    ) -> None:
        self.model, self.context = model, context
        self._client, self._top_k = client, top_k
        tree: dict[str, Any] = {
            "home": str(home),
            "embedder": {"model": str(minilm_path())},
            "prompt": {"deadline_seconds": 20},
        }
        self._system = MemorySystem(load_config(overrides=tree)).open()
        rememberer = Rememberer(self._system, JobQueue(self._system.jobs, self._system.config.jobs))
        self._pipeline = Pipeline(self._system, rememberer, BackgroundTasks())
        self.tokenizer = Tokenizer(self._system.embedder.count_tokens, lambda text: text, context)

    def close(self) -> None:
        self._system.close()

    def learn(self, history: History) -> None:
        self._system.create(_principal(history.person), list(history.cubes()))
        if left := self._system.outbox.size():
            raise RuntimeError(f"{left} items of {history.person} are not indexed")

    def count(self, messages: Messages) -> int:
        return sum(self.tokenizer.count(one["content"]) + FRAMING_TOKENS for one in messages)

    def ask(self, person: str, messages: Messages, max_tokens: int, *, memory: bool) -> Reply:
        if not memory:
            return stream(self._client, self.model, messages, max_tokens)
        started = time.perf_counter()
        options = MemoryOptions(write=False, required=True, top_k=self._top_k)
        chat = Chat(_principal(person), options, messages, self.model, max_reply=max_tokens)
        placed = asyncio.run(self._pipeline.chat(chat, _Placement(self.count, self.tokenizer)))
        memory_ms = (time.perf_counter() - started) * 1000
        reply = stream(self._client, self.model, placed or messages, max_tokens)
        return dataclasses.replace(
            reply,
            memory_tokens=chat.plan.injected_tokens,
            first_token_ms=reply.first_token_ms + memory_ms,
            whole_ms=reply.whole_ms + memory_ms,
        )


def stream(
    client: OpenAI, model: str, messages: Sequence[Any], max_tokens: int, **extra: Any
) -> Reply:
    """Stream a chat; measures the time to the first text and to the end."""
    started = time.perf_counter()
    chunks = client.chat.completions.create(
        model=model,
        messages=list(messages),
        max_tokens=max_tokens,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        **extra,
    )
    parts: list[str] = []
    first, prompt_tokens = 0.0, 0
    memory: dict[str, Any] = {}
    for chunk in chunks:
        if chunk.choices and chunk.choices[0].delta.content:
            first = first or time.perf_counter() - started
            parts.append(chunk.choices[0].delta.content)
        if chunk.usage:
            prompt_tokens = chunk.usage.prompt_tokens
        memory = getattr(chunk, "memory", None) or memory
    whole = time.perf_counter() - started
    if memory.get("degraded"):
        raise RuntimeError(f"memory was degraded: {memory['degraded']}")
    return Reply(
        text="".join(parts).strip(),
        prompt_tokens=prompt_tokens,
        memory_tokens=memory.get("injected_tokens", 0),
        first_token_ms=(first or whole) * 1000,
        whole_ms=whole * 1000,
    )


@dataclasses.dataclass(frozen=True)
class _Placement:
    """`ports.Exchange` whose answer is the messages with memory in them; no engine runs here."""

    count: Callable[[Messages], int]
    tokenizer: Tokenizer
    request_id: str = "benchmark"

    def tokenizer_for(self, chat: Chat) -> Tokenizer:
        return self.tokenizer

    async def prompt_tokens(self, messages: Messages) -> int | None:
        return self.count(messages)

    async def order_kv(self, chat: Chat, messages: Messages | None) -> None:
        return None

    async def answer(self, chat: Chat, messages: Messages | None) -> Messages | None:
        return messages

    async def deliver(self, chat: Chat, reply: Any, finish: Finish) -> Any:
        return reply


def _principal(person: str) -> Principal:
    return Principal(LOCAL_TENANT, Role.WRITER, "benchmark", PersonId(person))
