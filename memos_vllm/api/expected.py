"""What an inference request says about its cost and its person, before a handler reads it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from typing import Any

_CHARACTERS_PER_TOKEN = 4
_MOST_CHOICES = 128
_LENGTHS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_TEXTS = ("messages", "prompt", "input", "instructions", "system", "query", "documents", "tools")
_NO_TEXT = ("data:", "http://", "https://")


@dataclasses.dataclass(frozen=True, slots=True)
class Expected:
    person: str | None = None
    """As `engine.chat.routes.person_of` reads it; None: the header's."""
    prompt_tokens: int = 0
    """Estimated by the length of the texts, without memory."""
    reply_tokens: int = 0


def expected(body: bytes, default_reply: int) -> Expected:
    """Estimate a request by its JSON body; other bodies by their size.

    Args:
        default_reply: tokens of a reply without a length of its own.
    """
    if len(body) > (1 << 20) and body.lstrip()[:1] != b"{":
        return Expected(None, len(body) // _CHARACTERS_PER_TOKEN, default_reply)
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        return Expected()  # the handler refuses it
    if not isinstance(request, dict):
        return Expected()
    reply = default_reply
    for name in _LENGTHS:
        if isinstance(given := request.get(name), int) and given > 0:
            reply = given
            break
    choices = request.get("n")
    if isinstance(choices, int) and choices > 1:
        reply *= min(choices, _MOST_CHOICES)
    size = sum(_characters(request.get(name)) for name in _TEXTS)
    return Expected(_person(request), size // _CHARACTERS_PER_TOKEN, reply)


def _person(request: dict[str, Any]) -> str | None:
    metadata = request.get("metadata")
    anthropic = metadata.get("user_id") if isinstance(metadata, dict) else None
    for value in (request.get("safety_identifier"), request.get("user"), anthropic):
        if isinstance(value, str) and value:
            return value
    return None


def _characters(value: Any) -> int:
    """Characters of all texts in a value; a token id counts as one token."""
    count, waiting = 0, [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            count += 0 if one.startswith(_NO_TEXT) else len(one)
        elif isinstance(one, dict):
            waiting += one.values()
        elif isinstance(one, list):
            if one and all(isinstance(each, int) for each in one):
                count += _CHARACTERS_PER_TOKEN * len(one)
            else:
                waiting += one
    return count


def header_of_scope(raw: Iterable[tuple[bytes, bytes]], name: bytes) -> str | None:
    """The first header of a name; None: there is none."""
    return next((value.decode("latin-1") for key, value in raw if key.lower() == name), None)
