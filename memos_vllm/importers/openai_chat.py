"""Importer of OpenAI's formats: the data export (`conversations.json`) and chat completion logs.

A log is a list, or one object a line, of `{"messages": […], "user"?, "id"?, "choices"?}`.  Requests
repeat their whole history, so a record whose messages are a prefix of another's is left out.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from memos_vllm.cube.model import Item, ItemType
from memos_vllm.errors import BadRequest
from memos_vllm.importers.files import first_character, json_lines, read_json
from memos_vllm.importers.foreign.chatgpt import read_conversation
from memos_vllm.importers.skipped import Skipped
from memos_vllm.importers.source import (
    ImportedCube,
    ImportSource,
    chunk_cube,
    refusing_other_shapes,
    storable,
)

FORMAT = "openai-chat"
_ROLES = ("user", "assistant")


@dataclasses.dataclass(frozen=True, slots=True)
class ChatMessage:
    role: str
    text: str
    time: datetime | None = None
    id: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Chat:
    id: str
    title: str | None
    person: str | None
    messages: tuple[ChatMessage, ...]


@refusing_other_shapes
def openai_chat_source(path: Path, person: str | None, items_per_cube: int) -> ImportSource:
    """Each chat as cubes of `items_per_cube` messages.

    Args:
        person: owner of chats that name no `user`; None: the tenant's shared memory.
    Raises:
        BadRequest: neither format, or no message with text.
    """
    skipped = Skipped()
    chats = [chat for chat in read_chats(path, skipped) if chat.messages]
    if not chats:
        reasons = "".join(f" ({group.line()})" for group in skipped.groups()[:1])
        raise BadRequest(f"{path}: no message of a user or an assistant with text in it{reasons}")
    cubes = [cube for chat in chats for cube in _cubes(chat, person, items_per_cube)]
    return ImportSource(FORMAT, path, len(cubes), lambda: iter(cubes), skipped=skipped)


def read_chats(path: Path, skipped: Skipped) -> list[Chat]:
    """Chats of either format, which the records' fields identify. Raises BadRequest."""
    records = list(_records(path))
    if not records:
        raise BadRequest(f"{path}: the file is empty")
    if all("mapping" in record for _, record in records):
        read = [_exported(f"{path}: {place}", record, skipped) for place, record in records]
        return [chat for chat in read if chat is not None]
    return _longest([_logged(path, place, record) for place, record in records])


def _records(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(place in the file, record)."""
    if first_character(path) != "[":
        for number, record in json_lines(path):
            yield f"line {number}", record
        return
    for number, record in enumerate(read_json(path), start=1):
        if not isinstance(record, dict):
            raise BadRequest(f"{path}: record {number} is not an object")
        yield f"record {number}", record


# -- the data export ------------------------------------------------------------------------------


def _exported(where: str, record: Mapping[str, Any], skipped: Skipped) -> Chat | None:
    """A conversation of the export; None: `skipped` has the reason."""
    read = read_conversation(record, where, skipped)
    if read is None:
        return None
    messages = tuple(
        ChatMessage(each["role"], each["text"], _iso(each["time"]), each["id"])
        for each in read["messages"]
    )
    return Chat(read["id"], read["title"], None, messages)


def _iso(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


# -- logs of chat completions ---------------------------------------------------------------------


def _logged(path: Path, place: str, record: Mapping[str, Any]) -> Chat:
    messages = record.get("messages")
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise BadRequest(
            f"{path}: {place} is neither of OpenAI's data export (it has no `mapping`) nor of a log "
            'of chat completions (`{"messages": [...]}`): remove it, or use `memos import jsonl`'
        )
    replies = [
        choice["message"]
        for choice in (record.get("choices") or ())[:1]
        if isinstance(choice, dict) and isinstance(choice.get("message"), dict)
    ]
    moment = _moment(record.get("created"))
    read = [
        ChatMessage(message["role"], text, moment)
        for message in [*messages, *replies]
        if message.get("role") in _ROLES and (text := _content_text(message.get("content")))
    ]
    chat_id = record.get("session_id") or record.get("id") or f"{path.stem} {place}"
    user = record.get("user")
    person = user if isinstance(user, str) and user else None
    return Chat(_label(chat_id), None, person, tuple(read))


def _content_text(content: Any) -> str:
    if isinstance(content, str):
        return storable(content)
    parts = content if isinstance(content, list) else ()
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return storable("\n".join(text for text in texts if isinstance(text, str)))


def _longest(chats: Sequence[Chat]) -> list[Chat]:
    """Drop chats that are a prefix of another one; of equal chats, keep the first."""
    beginnings: set[bytes] = set()
    whole: list[bytes] = []
    for chat in chats:
        digests = list(_prefix_digests(chat))
        beginnings.update(digests[:-1])
        whole.append(digests[-1] if digests else b"")
    longest, seen = [], set()
    for chat, digest in zip(chats, whole, strict=True):
        if digest not in beginnings and digest not in seen:
            longest.append(chat)
        seen.add(digest)
    return longest


def _prefix_digests(chat: Chat) -> Iterator[bytes]:
    running = hashlib.sha256((chat.person or "").encode("utf-8", "surrogatepass"))
    for message in chat.messages:
        text = message.text.encode("utf-8", "surrogatepass")
        running.update(f"\x00{message.role}\x00{len(text)}\x00".encode())
        running.update(text)
        yield running.digest()


# -- both -----------------------------------------------------------------------------------------


def _label(name: Any) -> str:
    return storable(str(name))[:500] or "chat"


def _cubes(chat: Chat, person: str | None, size: int) -> Iterator[ImportedCube]:
    owner = chat.person or person
    items = [
        Item(
            type=ItemType.EPISODE,
            text=message.text,
            speaker=owner if owner and message.role == "user" else message.role,
            time=message.time,
            session=chat.id,
            source=message.id,
        )
        for message in chat.messages
    ]
    for start in range(0, len(items), size):
        part = items[start : start + size]
        cube = chunk_cube(FORMAT, chat.id, start // size + 1, part, person=owner, note=chat.title)
        yield dataclasses.replace(cube, is_conversation=True)


def _moment(seconds: Any) -> datetime | None:
    """Time from seconds since the epoch; None for other values."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, OSError, ValueError):
        return None
