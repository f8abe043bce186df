"""The writing side of MemReader: an answered turn as items (`fast`: verbatim, no model call)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from memos_vllm import zones
from memos_vllm.cube.ids import canonical_json
from memos_vllm.cube.model import ASSISTANT, TOOL, Item, ItemType, Mark
from memos_vllm.plaintext.reader.tools import tool_traces, trace_text
from memos_vllm.prompt.messages import Message, said_in, text_of

REPLY = "reply"
_MARKS = {
    "length": Mark.CUT,
    "repetition": Mark.CUT,
    "content_filter": Mark.FILTERED,
    "abort": Mark.ABORTED,
    "error": Mark.ABORTED,
}
LONGEST_REQUEST_ID = 300  # clients may choose their own; it becomes part of each item's source


def mark_of(finish_reason: str | None, degraded: bool, without_memory: bool) -> Mark | None:
    """Why a reply is no evidence; None: it is.

    Args:
        finish_reason: of the engine; "abort" where the client went away.
        degraded: a part of memory did not answer.
        without_memory: none was asked for, or none fitted.
    """
    if (mark := _MARKS.get(finish_reason or "")) is not None:
        return mark
    if degraded:
        return Mark.DEGRADED
    return Mark.WITHOUT_MEMORY if without_memory else None


def turn_body(
    messages: Sequence[Message],
    reply: str,
    *,
    model: str,
    request_id: str,
    at_us: int,
    mark: Mark | None = None,
) -> dict[str, Any] | None:
    """The stored form of a turn, for later reading; None: no user message has text or an image.

    Args:
        reply: empty where the engine said nothing: the person's words are stored alone.
        mark: why the reply is no evidence; None: it is.
    """
    position = _last_user(messages)
    if position is None:
        return None
    body: dict[str, Any] = {
        "user": said_in(messages[position]),
        "reply": reply,
        "position": position,
        "model": model,
        "request_id": request_id[:LONGEST_REQUEST_ID],
        "at_us": at_us,
        "prompt_sha256": hashlib.sha256(
            canonical_json([[m.get("role"), text_of(m)] for m in messages])
        ).hexdigest(),
    }
    if traces := tool_traces(messages):
        body["tools"] = traces
    if mark is not None:
        body["mark"] = mark
    return body


def has_words(messages: Sequence[Message]) -> bool:
    """Whether a user message has text or an image, so that the turn can become memory."""
    return _last_user(messages) is not None


def turn_items(body: Mapping[str, Any], person: str, session: str) -> list[Item]:
    """Items of the user's text, the tool results and the reply, with speaker, time and source.

    Args:
        body: from `turn_body`, of this version or an older one, which had no `tools` and no `mark`.
    """
    mark = Mark(body["mark"]) if body.get("mark") else None
    parts = [(ItemType.EPISODE, person, body["user"], "user")]
    for number, trace in enumerate(body.get("tools", ())):
        parts.append((ItemType.TOOL_TRACE, TOOL, trace_text(trace), f"tool{number}"))
    parts.append((ItemType.EPISODE, ASSISTANT, body["reply"], REPLY))
    return [
        Item(
            type=kind,
            text=text.replace("\x00", "").strip(),
            speaker=speaker,
            time=zones.local(body["at_us"], body.get("timezone")),
            session=session,
            source=f"{body['request_id']}:{part}",
            mark=mark if part == REPLY else None,
        )
        for kind, speaker, text, part in parts
        if text.replace("\x00", "").strip()
    ]


def last_said(messages: Sequence[Message]) -> str:
    """The user's newest text; empty: none has any."""
    position = _last_user(messages)
    return said_in(messages[position]) if position is not None else ""


def _last_user(messages: Sequence[Message]) -> int | None:
    """Position of the last user message with text or an image."""
    for position in range(len(messages) - 1, -1, -1):
        if messages[position].get("role") == "user" and said_in(messages[position]).strip():
            return position
    return None


def session_name(session: str | None, body: Mapping[str, Any]) -> str:
    """The client's session; without one, the person's day."""
    return session or zones.local(body["at_us"], body.get("timezone")).strftime("%Y-%m-%d")
