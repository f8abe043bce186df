"""What the path of a request needs of an engine: `pipeline` and `learning` see no more of it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from memos_vllm.governance.principal import Principal
from memos_vllm.options import MemoryOptions
from memos_vllm.prompt.messages import Message
from memos_vllm.scheduler.plan import MemoryPlan
from memos_vllm.scheduler.scheduler import Draft, Tokenizer
from memos_vllm.vault.views import AdapterCube


class Model(Protocol):
    """What the pipeline needs of the engine that will answer."""

    @property
    def tokenizer(self) -> Tokenizer: ...

    async def prompt_tokens(self, messages: list[dict[str, Any]]) -> int | None:
        """Length of the prompt that these messages become; None when the engine refuses them."""
        ...


@dataclasses.dataclass(slots=True)
class Chat:
    """One request on its way through."""

    principal: Principal
    options: MemoryOptions
    messages: Sequence[Message]
    model_name: str
    max_reply: int | None = None
    prompt_limit: int | None = None
    """`truncate_prompt_tokens` of the request: the prompt is cut there, so memory stays below it."""
    store: bool = True
    plan: MemoryPlan = dataclasses.field(default_factory=MemoryPlan)
    draft: Draft | None = None
    """What stands in the prompt, once it is rendered."""
    parametric: list[AdapterCube] = dataclasses.field(default_factory=list)
    """Cubes that should be attached, the best first."""
    adapter: Adapter | None = None
    """What is attached."""
    preparing: asyncio.Task[Adapter] | None = None
    """It is made ready while memory is searched."""


class Adapter(Protocol):
    """An adapter that the engine has ready; entered while the engine computes with it."""

    @property
    def request(self) -> Any:
        """What a request carries into the engine."""
        ...

    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...
    @property
    def cubes(self) -> Sequence[AdapterCube]:
        """What it is made of."""
        ...


class Adapters(Protocol):
    """What the pipeline needs of an engine that attaches adapters."""

    @property
    def most_merged(self) -> int:
        """Adapters that it can make one of."""
        ...

    def problem(self, cube: AdapterCube) -> str | None:
        """Why it cannot attach this one; None: it can."""
        ...

    async def prepare(self, cubes: Sequence[AdapterCube]) -> Adapter:
        """Have them ready in the engine, as one; the first alone while they are being merged.

        Raises Unavailable, DamagedPayload, Unprocessable.
        """
        ...


Answer = Callable[[list[dict[str, Any]] | None], Awaitable[Any]]
"""Calls vLLM's handler with new messages, or (None) with the request as it came."""
