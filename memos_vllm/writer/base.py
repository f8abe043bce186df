"""Interface of a model that writes text for the memory system, one short answer per ask.

Self-study asks for questions and answers, `plaintext.reader.by_model` for the claims of a turn.  The
model is the served one by its engine (`engine.chat.writer`), the same by its weights
(`parametric.training.weights`), or another one behind an OpenAI-compatible address (`writer.openai`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

Message = dict[str, Any]
"""One chat message of our own: `role` and `content`."""


@dataclasses.dataclass(frozen=True)
class Ask:
    """One request to the model."""

    messages: list[Message]
    max_tokens: int
    temperature: float = 0.0
    seed: int = 0
    schema: dict[str, Any] | None = None
    """JSON schema of the answer."""
    after: str | None = None
    """Id of a request whose conversation `instruction` continues, where the writer has it."""
    instruction: str | None = None
    """The message behind that conversation; `messages` is the same request without it."""
    shared: bool = False
    """Whether the messages hold no person's words, so that asks may share their prefix's KV."""


class Writer(Protocol):
    """A model that writes. Called from a thread that may block."""

    def write(self, asks: Sequence[Ask], done: Callable[[int], None]) -> list[str]:
        """One text for each ask.

        Args:
            done: called with the number written so far, also between attempts; may raise to stop.

        Raises:
            Unavailable: the model does not answer.
        """
        ...
