"""Text of chat messages, from plain content or content parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Message = Mapping[str, Any]
"""One chat message as OpenAI's clients send it: `role`, `content` (text or parts), …"""

_IMAGES = ("image_url", "input_image", "image")
_RESOLUTIONS = (
    "auto",
    "low",
    "high",
    "original",
)  # the values of OpenAI's `detail`, which are no captions
_LONGEST_CAPTION = 500
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


def said_in(message: Message) -> str:
    """The message's text with a mark for each image, so that memory of the turn mentions it."""
    content = message.get("content")
    if isinstance(content, str) or not isinstance(content, Sequence):
        return text_of(message)
    texts = (part_text(part) if _image(part) is None else _image(part) for part in content)
    return "\n".join(part for part in texts if part)


def _image(part: Any) -> str | None:
    """`[image]`, with its caption if the client sent one; None for a part that is no image."""
    if not isinstance(part, Mapping) or part.get("type") not in _IMAGES:
        return None
    image = part.get("image_url")
    holders = [part, image] if isinstance(image, Mapping) else [part]
    for holder in holders:
        for key in ("alt", "alt_text", "caption", "title", "detail"):
            caption = holder.get(key)
            if isinstance(caption, str) and caption.strip() and caption not in _RESOLUTIONS:
                return f"[image: {' '.join(caption.split())[:_LONGEST_CAPTION]}]"
    return "[image]"


def last_user(messages: Sequence[Message]) -> int | None:
    """Position of the last user message that has text."""
    return next(_from_the_end(messages), None)


def users(messages: Sequence[Message]) -> list[int]:
    """Positions of the user messages that have text, ascending."""
    return list(_from_the_end(messages))[::-1]


def _from_the_end(messages: Sequence[Message]) -> Iterator[int]:
    for position in range(len(messages) - 1, -1, -1):
        if messages[position].get("role") == "user" and text_of(messages[position]).strip():
            yield position
