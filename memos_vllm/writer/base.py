"""What writes for us: a model that is asked many small things and answers each with text.

Self-study asks it for questions and answers, `reader.fine` for what was said in a turn.  It is the
served model by its engine (`engine.writer`), the same by its weights (`parametric.training.weights`), or another
one behind an OpenAI-compatible address (`writer.openai`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

Message = dict[str, Any]
"""One chat message that we wrote ourselves: `role` and `content`."""


@dataclasses.dataclass(frozen=True)
class Ask:
    """One thing that the model is to write."""

    messages: list[Message]
    max_tokens: int
    temperature: float = 0.0
    seed: int = 0
    schema: dict[str, Any] | None = None
    """JSON schema of the answer."""


class Writer(Protocol):
    """A model that writes. Called from a thread that may wait."""

    def write(self, asks: Sequence[Ask], done: Callable[[int], None]) -> list[str]:
        """One text for each.

        Args:
            done: told how many are written, again and again; may raise to stop.
        Raises:
            Unavailable: the model does not answer.
        """
        ...
