"""A memory block of LlamaIndex: what the person's memory says about the newest message.

    block = MemosMemoryBlock(client=MemoryClient("http://127.0.0.1:8000", key="…", person="alice"))
    memory = Memory.from_defaults(session_id="monday", memory_blocks=[block])

`aget` searches memory and returns quoted lines; `aput` stores the messages that LlamaIndex moves out of its
short-term memory, in one cube for each session. A server that answers the chats itself remembers them already:
then pass `accept_short_term_memory=False`.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.bridge.pydantic import Field
from llama_index.core.memory import BaseMemoryBlock

from memos_vllm.cube.model import ASSISTANT, TOOL, Item, ItemType
from memos_vllm.errors import Conflict, NotFound
from memos_vllm.integrations.client import MemoryClient
from memos_vllm.prompt.layout import control_string_breaker, quote_item

ORIGIN = "llamaindex"
_LONGEST_QUERY = 4000
_LONGEST_MESSAGE = 100_000
_CHARACTERS_PER_TOKEN = 3.5
_ATTEMPTS = 5
_escape = control_string_breaker(())


class MemosMemoryBlock(BaseMemoryBlock[str]):
    """Long-term memory of one person on a memory server."""

    name: str = Field(default="memos", description="name of the block in the prompt")
    client: MemoryClient = Field(exclude=True, description="the server, key and person")
    top_k: int = Field(default=8, ge=1, le=200, description="items for one message")

    async def _aget(self, messages: list[ChatMessage] | None = None, **_: Any) -> str:
        """Quoted lines, best first; empty: nothing is known, or there is no question."""
        question = _question(messages or [])
        if not question:
            return ""
        hits = await asyncio.to_thread(self.client.search, question, self.top_k)
        return "\n".join(_line(hit) for hit in hits)

    async def _aput(self, messages: list[ChatMessage]) -> None:
        """Store messages as turns, each in its session's cube.

        Raises:
            MemosError: the server refuses, or does not answer.
        """
        by_session: dict[str, list[dict[str, str]]] = {}
        for message in messages:
            item = _item(message, self.client.person or "user")
            if item is not None:
                by_session.setdefault(item["session"], []).append(item)
        for session, items in by_session.items():
            await asyncio.to_thread(self._store, session, items)

    async def atruncate(self, content: str, tokens_to_truncate: int) -> str | None:
        """The best lines, without enough of the last ones."""
        room = len(content) - int(tokens_to_truncate * _CHARACTERS_PER_TOKEN)
        kept: list[str] = []
        for line in content.split("\n"):
            room -= len(line) + 1
            if room < 0:
                break
            kept.append(line)
        return "\n".join(kept) or None

    def _store(self, session: str, items: Sequence[dict[str, str]]) -> None:
        name = f"{ORIGIN}:{hashlib.sha256(session.encode()).hexdigest()[:40]}"
        provenance = {"origin": ORIGIN, "session": session}
        for _ in range(_ATTEMPTS):
            try:
                self.client.change(name, {"append": list(items), "provenance": provenance})
                return
            except NotFound:
                pass
            try:
                meta = {"name": name, "tags": [ORIGIN], "provenance": provenance}
                self.client.create(meta, items)
                return
            except Conflict:
                continue  # another writer made it
        raise Conflict(f"other writers make and delete the cube {name!r} all the time: try again")


def _question(messages: Sequence[ChatMessage]) -> str:
    for message in reversed(messages):
        if message.role == MessageRole.USER and (text := (message.content or "").strip()):
            return text[-_LONGEST_QUERY:].replace("\x00", "")
    return ""


def _line(hit: dict[str, Any]) -> str:
    over = datetime.fromisoformat(hit["over"]) if hit["over"] else None
    followed = datetime.fromisoformat(hit["followed"]) if hit.get("followed") else None
    return quote_item(Item.model_validate(hit["item"]), _escape, over, followed=followed)


def _item(message: ChatMessage, person: str) -> dict[str, str] | None:
    """A turn; None: a system message, or one without text."""
    text = (message.content or "").replace("\x00", "").strip()[:_LONGEST_MESSAGE]
    kinds = {
        MessageRole.USER: (ItemType.EPISODE, person),
        MessageRole.ASSISTANT: (ItemType.EPISODE, ASSISTANT),
        MessageRole.TOOL: (ItemType.TOOL_TRACE, TOOL),
        MessageRole.FUNCTION: (ItemType.TOOL_TRACE, TOOL),
    }
    if not text or message.role not in kinds:
        return None
    kind, speaker = kinds[message.role]
    session = str(message.additional_kwargs.get("session_id") or "default")[:256]
    return {
        "type": kind,
        "text": text,
        "speaker": speaker,
        "session": session,
        "time": datetime.now(UTC).isoformat(),
    }
