"""A streamed reply: passed through chunk by chunk, with `memory` added to the last chunk.

vLLM's stream is a sequence of server-sent events, each one string: `data: {json}` and two line
breaks, then `data: [DONE]`.  The last chunk is the usage chunk (empty `choices`) where usage is
asked for, else the chunk in which the last choice finishes.  Nothing is held back to find it; the
last chunk itself waits until the turn is stored.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

_PREFIX, _DONE = "data: ", "data: [DONE]"
# These cannot occur inside a JSON string, where quotes are escaped.
_FINISH, _NO_CHOICES = '"finish_reason":"', '"choices":[]'


class StreamWatch:
    """Finds the last chunk and keeps the first choice's text."""

    def __init__(self, choices: int, with_usage: bool) -> None:
        self._open_choices = choices
        self._with_usage = with_usage
        self._text: list[str] = []
        self.request_id = ""
        self.finished = False
        self.finish_reason: str | None = None
        """Of the first choice; None: it has not ended."""
        self.calls_tool = False
        self.failed = False
        """Whether the engine sent an error."""

    def is_last(self, chunk: str) -> bool:
        self._open_choices -= chunk.count(_FINISH)
        self.finished = self._open_choices <= 0
        if self._with_usage:
            return _NO_CHOICES in chunk and '"usage":{' in chunk
        return self.finished and _FINISH in chunk

    def read(self, chunk: str) -> None:
        if not chunk.startswith(_PREFIX + "{"):
            return
        event = json.loads(chunk[len(_PREFIX) :])
        self.request_id = event.get("id", self.request_id)
        self.failed = self.failed or "error" in event
        for choice in event.get("choices") or ():
            if choice.get("index") == 0:
                delta = choice.get("delta") or {}
                self._text.append(delta.get("content") or choice.get("text") or "")
                self.calls_tool = self.calls_tool or bool(delta.get("tool_calls"))
                self.finish_reason = choice.get("finish_reason") or self.finish_reason

    @property
    def text(self) -> str:
        return "".join(self._text)


async def pass_through(
    chunks: AsyncGenerator[str, None],
    watch: StreamWatch,
    memory: Callable[[], dict[str, Any]],
    complete: Callable[[], Awaitable[None]],
    abandon: Callable[[], None],
) -> AsyncGenerator[str, None]:
    """The same chunks, the last one with `memory`.

    Args:
        memory: what to add, asked for when the last chunk is there.
        complete: awaited before the last chunk is sent, so that `memory` says whether the turn is stored,
            or before the end of a stream without one.
        abandon: called instead when the client goes away.
    """
    done = False
    try:
        async for chunk in chunks:
            if chunk.startswith(_DONE):
                if not done:
                    done = True
                    await complete()
                yield chunk
                continue
            watch.read(chunk)
            if not watch.is_last(chunk):
                yield chunk
                continue
            done = True
            await complete()
            yield with_memory(chunk, memory())
    finally:
        await chunks.aclose()
        if not done:
            abandon()


def with_memory(chunk: str, memory: dict[str, Any]) -> str:
    body = chunk.rstrip("\n")
    extra = json.dumps({"memory": memory}, separators=(",", ":"))
    return body[:-1] + "," + extra[1:] + chunk[len(body) :]
