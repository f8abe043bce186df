"""What an export holds, in one form for all systems: chats, facts and documents of one person each.

The process that reads a file writes these as JSON lines; the server checks them again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from memos_vllm.cube.model import ItemType, Label, Strict, Text
from memos_vllm.cube.moments import Moment
from memos_vllm.importers.skipped import Skipped
from memos_vllm.importers.source import MISSHAPEN, storable

Title = Annotated[str, StringConstraints(max_length=2000, pattern=r"^[^\x00]*$")]


class Message(Strict):
    role: Literal["user", "assistant"]
    text: Text
    time: Moment | None = None
    id: Label


class Chat(Strict):
    kind: Literal["chat"] = "chat"
    id: Label
    title: Title | None = None
    messages: list[Message] = Field(min_length=1)


class Fact(Strict):
    """A statement that another system has drawn from conversations, in its own words."""

    kind: Literal["fact"] = "fact"
    id: Label
    user: Label | None = None
    """Its person there."""
    text: Text
    type: ItemType = ItemType.FACT
    time: Moment | None = None
    ended: Moment | None = None
    """When a newer statement replaced it."""
    replaced_by: Label | None = None
    session: Label | None = None
    confidence: float = Field(1.0, ge=0, le=1)


class Document(Strict):
    kind: Literal["document"] = "document"
    id: Label
    name: Label
    text: Text
    time: Moment | None = None


Record = Annotated[Chat | Fact | Document, Field(discriminator="kind")]


def text_of(value: Any) -> str:
    """A text that databases take, without blanks around it; empty for what is no text."""
    return storable(value) if isinstance(value, str) else ""


def label(name: Any, otherwise: str) -> str:
    """An id or name of the export, as a label."""
    text = name if isinstance(name, str) else "" if name is None else str(name)
    return storable(text)[:500] or otherwise


def moment(value: Any) -> str | None:
    """A time in ISO 8601, of seconds since the epoch or of a text; None: it is none."""
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            found = datetime.fromtimestamp(value, UTC)
        elif isinstance(value, str) and value.strip():
            found = datetime.fromisoformat(value.strip())
        else:
            return None
    except (ValueError, OverflowError, OSError):
        return None
    aware = found if found.tzinfo else found.replace(tzinfo=UTC)
    return aware.isoformat() if 3 <= aware.year <= 9997 else None


def guarded(
    read: Callable[[], Iterable[dict[str, Any]]], name: str, skipped: Skipped
) -> list[dict[str, Any]]:
    """What is read of one record; nothing where a value has another shape than the format has."""
    try:
        return list(read())
    except MISSHAPEN as error:
        reason = f"a value has another shape than this format has ({type(error).__name__})"
        skipped.add("record", reason, name)
        return []
