"""The writing side of MemReader: an answered turn as items (`fast`: verbatim, no model call)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from memos_vllm.cube.ids import canonical_json, to_datetime
from memos_vllm.cube.model import Item, ItemType
from memos_vllm.reader.messages import Message, last_user, text_of

ASSISTANT = "assistant"
LONGEST_REQUEST_ID = 300  # clients may choose their own; it becomes part of each item's source


def turn_body(
    messages: Sequence[Message], reply: str, *, model: str, request_id: str, at_us: int
) -> dict[str, Any] | None:
    """What must be kept of a turn to remember it later; None when nobody said anything."""
    position = last_user(messages)
    if position is None:
        return None
    return {
        "user": text_of(messages[position]),
        "reply": reply,
        "position": position,
        "model": model,
        "request_id": request_id[:LONGEST_REQUEST_ID],
        "at_us": at_us,
        "prompt_sha256": hashlib.sha256(
            canonical_json([[m.get("role"), text_of(m)] for m in messages])
        ).hexdigest(),
    }


def turn_items(body: Mapping[str, Any], person: str, session: str) -> list[Item]:
    """The user's words and the reply, each with speaker, time and source."""
    moment = to_datetime(body["at_us"])
    said = [(person, body["user"], "user"), (ASSISTANT, body["reply"], "reply")]
    return [
        Item(
            type=ItemType.EPISODE,
            text=text.replace("\x00", "").strip(),
            speaker=speaker,
            time=moment,
            session=session,
            source=f"{body['request_id']}:{part}",
        )
        for speaker, text, part in said
        if text.replace("\x00", "").strip()
    ]


def session_name(session: str | None, body: Mapping[str, Any]) -> str:
    """The session as the client names it; without one, the day (UTC) is the session."""
    return session or to_datetime(body["at_us"]).strftime("%Y-%m-%d")
