"""Tokens of one HTTP request, counted while the engine takes and gives them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextvars import ContextVar


@dataclasses.dataclass(slots=True)
class Meter:
    """Set by the middleware; `engine.gateway` counts."""

    served: Callable[[int, int], None] | None = None
    """Called with (prompt tokens, reply tokens) of each step, for fairness."""
    prompt_tokens: int = 0
    reply_tokens: int = 0
    unfinished: int = 0
    """Generations that have begun and not ended: of a cancelled one the reply may not be counted."""

    def count(self, prompt_tokens: int, reply_tokens: int) -> None:
        self.prompt_tokens += prompt_tokens
        self.reply_tokens += reply_tokens
        if self.served is not None and (prompt_tokens or reply_tokens):
            self.served(prompt_tokens, reply_tokens)

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.reply_tokens


METER: ContextVar[Meter | None] = ContextVar("memos_meter", default=None)
"""The current request's; tasks and streams that the handler starts inherit it."""
