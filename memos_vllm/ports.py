"""Ports of a chat request: the request itself, and what its path needs of an engine.

`pipeline` works on these; `engine` implements them for vLLM, tests for a stand-in.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Sequence
from typing import Any, Protocol

from memos_vllm.governance.principal import Principal
from memos_vllm.governance.read_journal import Read
from memos_vllm.options import MemoryOptions
from memos_vllm.prompt.messages import Message
from memos_vllm.scheduler.draft import Draft
from memos_vllm.scheduler.plan import MemoryPlan
from memos_vllm.scheduler.scheduler import Tokenizer
from memos_vllm.vault.views import AdapterCube

Messages = list[dict[str, Any]]
"""Chat messages, as in the request's body."""


class Finish(Protocol):
    """Called when a reply is complete, or its client has gone away; a second call does nothing."""

    def __call__(
        self, request_id: str, reply: str | None, finish_reason: str | None = None
    ) -> Awaitable[None]:
        """
        Args:
            reply: its text, empty where there is none; None: the turn is not stored (an error, or a
                call of a tool).
            finish_reason: of the engine; "abort" where the client went away.
        """
        ...


@dataclasses.dataclass(slots=True)
class Chat:
    """One chat request and what the pipeline has decided about it."""

    principal: Principal
    options: MemoryOptions
    messages: Sequence[Message]
    model_name: str
    max_reply: int | None = None
    prompt_limit: int | None = None
    """`truncate_prompt_tokens` of the request: the prompt is cut there, so memory stays below it."""
    store: bool = True
    question: str | None = None
    """What memory is searched for; None: it is read from the messages."""
    has_speaker: bool = True
    """Whether a person says the last message; else it is remembered on request alone."""
    plan: MemoryPlan = dataclasses.field(default_factory=MemoryPlan)
    draft: Draft | None = None
    """The memory in the rendered prompt; None: there is none in it."""
    parametric: list[AdapterCube] = dataclasses.field(default_factory=list)
    """Parametric cubes to attach, the best first."""
    adapter: AttachedAdapter | None = None
    preparing: asyncio.Task[AttachedAdapter] | None = None
    """Loads the adapter into the engine while memory is searched."""
    read: Read | None = None
    """The entry of this prompt's memory in the journal of reads."""
    recorded: asyncio.Future[None] | None = None
    """Ends when that entry is on the disk; the engine's first token waits for it."""
    without_memory: bool = False
    """Memory that was found does not fit into the prompt."""
    finished: bool = False
    """The reply is complete or abandoned, and its turn is stored or refused."""

    @property
    def asked(self) -> Sequence[Message]:
        """The messages that the question is read from."""
        if self.question is None:
            return self.messages
        return [{"role": "user", "content": self.question}]


class AttachedAdapter(Protocol):
    """An adapter loaded into the engine; a context manager around each computation with it."""

    @property
    def request(self) -> Any:
        """vLLM's `LoRARequest`."""
        ...

    @property
    def cubes(self) -> Sequence[AdapterCube]:
        """The cubes that its weights come from."""
        ...

    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


class AdapterLoader(Protocol):
    """Loads adapters into the engine."""

    @property
    def most_merged(self) -> int:
        """Number of adapters that it can merge into one."""
        ...

    def problem(self, cube: AdapterCube) -> str | None:
        """The reason why this cube cannot be attached; None: it can."""
        ...

    async def prepare(self, cubes: Sequence[AdapterCube]) -> AttachedAdapter:
        """Load the adapters as one; while they are being merged, the first alone.

        Raises:
            Unavailable, DamagedPayload, Unprocessable
        """
        ...


class Model(Protocol):
    """The served model, as far as a prompt is planned for it."""

    @property
    def tokenizer(self) -> Tokenizer: ...

    def tokenizer_for(self, chat: Chat) -> Tokenizer:
        """The tokenizer, with the places of compacts where the chat wants them."""
        return self.tokenizer

    async def prompt_tokens(self, messages: Messages) -> int | None:
        """Length of the prompt that these messages render to; None: the engine refuses them."""
        ...


class Exchange(Model, Protocol):
    """One request inside vLLM's chat handler."""

    @property
    def request_id(self) -> str:
        """Id of the request, also before the engine has answered."""
        ...

    async def order_kv(self, chat: Chat, messages: Messages | None) -> None:
        """Order the prompt's KV: the segments that the connector may load and keep.

        Args:
            messages: as for `answer`.
        """
        ...

    async def answer(self, chat: Chat, messages: Messages | None) -> Any:
        """Call vLLM's handler.

        Args:
            messages: with memory in them; None: the request's own.
        """
        ...

    async def deliver(self, chat: Chat, reply: Any, finish: Finish) -> Any:
        """The reply as the client gets it, with `memory` in it.

        Args:
            finish: awaited before the end of the reply is sent: at once for a whole reply, with the
                last chunk of a stream, and after a client has gone away.
        """
        ...
