"""Text of chat messages, whatever form their content has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Message = Mapping[str, Any]
"""One chat message as OpenAI's clients send it: `role`, `content` (text or parts), …"""

SYSTEM_ROLES = ("system", "developer")


def text_of(message: Message) -> str:
    """The message's text; of several parts, the text parts joined by line breaks."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        return ""
    return "\n".join(text for part in content if (text := part_text(part)) is not None)


def part_text(part: Any) -> str | None:
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping) and part.get("type", "text") in ("text", "input_text"):
        text = part.get("text")
        return text if isinstance(text, str) else None
    return None


def last_user(messages: Sequence[Message]) -> int | None:
    """Position of the last user message that has text."""
    for position in range(len(messages) - 1, -1, -1):
        if messages[position].get("role") == "user" and text_of(messages[position]).strip():
            return position
    return None
