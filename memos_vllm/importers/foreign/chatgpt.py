"""ChatGPT's export: `conversations.json`, a list of conversations that are trees of messages.

The shown branch is imported, from the root to `current_node`; replies that were regenerated and questions
that were edited away are left out, and so are messages of the system and of tools, images and sound.  A
transcription of what was spoken is text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memos_vllm.importers.foreign.records import label, moment, text_of
from memos_vllm.importers.skipped import Skipped

_ROLES = ("user", "assistant")
_TEXTS = ("text", "multimodal_text")
_ASSETS = {
    "image_asset_pointer": "image",
    "audio_asset_pointer": "recording",
    "real_time_user_audio_video_asset_pointer": "recording",
    "video_container_asset_pointer": "video",
}


def read_conversation(
    record: Mapping[str, Any], place: str, skipped: Skipped
) -> dict[str, Any] | None:
    """A conversation as a chat; None: nothing of it is imported, and `skipped` has the reason."""
    name = label(record.get("conversation_id") or record.get("id"), place)
    mapping = record.get("mapping")
    if not isinstance(mapping, dict):
        skipped.add("conversation", "it has no `mapping` of messages", name)
        return None
    if record.get("is_do_not_remember"):
        skipped.add("conversation", "it is marked as not to be remembered", name)
        return None
    path = shown_path(mapping, record.get("current_node"))
    if path is None:
        skipped.add("conversation", "the messages' `parent`s run in a circle", name)
        return None
    shown = set(path)
    for node_id, node in mapping.items():
        if node_id not in shown and _message(node) is not None:
            reason = "it is on a branch that is not shown: regenerated, or edited away"
            skipped.add("message", reason, f"{name}/{node_id}")
    messages = [
        read
        for node_id in path
        if (message := _message(mapping[node_id])) is not None
        and (read := read_message(message, node_id, name, skipped)) is not None
    ]
    if not messages:
        skipped.add("conversation", "no message of a person or the assistant has text", name)
        return None
    title = text_of(record.get("title"))[:2000] or None
    return {"kind": "chat", "id": name, "title": title, "messages": messages}


def shown_path(mapping: Mapping[str, Any], current: Any) -> list[str] | None:
    """Ids of the nodes from the root to the current one; None: they run in a circle."""
    if not isinstance(current, str) or not isinstance(mapping.get(current), dict):
        current = _newest_leaf(mapping)
    path: list[str] = []
    while isinstance(current, str) and isinstance(mapping.get(current), dict):
        path.append(current)
        if len(path) > len(mapping):
            return None
        current = mapping[current].get("parent")
    return path[::-1]


def read_message(
    message: Mapping[str, Any], node_id: str, chat: str, skipped: Skipped
) -> dict[str, Any] | None:
    """A message of the person or of the assistant; None: it is left out."""
    name = f"{chat}/{node_id}"
    author = message.get("author")
    role = author.get("role") if isinstance(author, Mapping) else None
    metadata = message.get("metadata")
    hidden = isinstance(metadata, Mapping) and metadata.get("is_visually_hidden_from_conversation")
    content = message.get("content")
    kind = content.get("content_type") if isinstance(content, Mapping) else None
    if role not in _ROLES:
        skipped.add("message", f"it is of the role {text_of(str(role))[:40]!r}", name)
    elif kind == "user_editable_context":
        skipped.add("message", "custom instructions: store them as a cube where they hold", name)
    elif hidden:
        skipped.add("message", "it is hidden from the conversation", name)
    elif kind not in _TEXTS or message.get("recipient") not in (None, "all"):
        skipped.add("message", f"its content is {text_of(str(kind))[:40]!r}, for a tool", name)
    else:
        assert isinstance(content, Mapping)
        text = _text(content.get("parts"), name, skipped)
        if text:
            at = moment(message.get("create_time"))
            return {"role": role, "text": text, "time": at, "id": label(node_id, chat)}
        skipped.add("message", "it has no text", name)
    return None


def _text(parts: Any, name: str, skipped: Skipped) -> str:
    texts = []
    for part in parts if isinstance(parts, list) else []:
        if isinstance(part, str):
            texts.append(part)
            continue
        if not isinstance(part, Mapping):
            continue
        kind = part.get("content_type")
        if isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind in _ASSETS:
            skipped.add(_ASSETS[str(kind)], "the export refers to it, memory keeps text", name)
        else:
            reason = f"its kind, {text_of(str(kind))[:40]!r}, has no text"
            skipped.add("part of a message", reason, name)
    return text_of("\n".join(text for text in texts if text.strip()))


def _message(node: Any) -> Mapping[str, Any] | None:
    message = node.get("message") if isinstance(node, Mapping) else None
    return message if isinstance(message, Mapping) else None


def _newest_leaf(mapping: Mapping[str, Any]) -> str | None:
    """The leaf with the newest message, where the export names no current node."""
    parents = {node.get("parent") for node in mapping.values() if isinstance(node, Mapping)}
    leaves = [name for name, node in mapping.items() if isinstance(node, Mapping)]
    leaves = [name for name in leaves if name not in parents] or leaves

    def written(name: str) -> float:
        message = _message(mapping[name])
        at = message.get("create_time") if message is not None else None
        return float(at) if isinstance(at, int | float) else 0.0

    # Of equal ones, the last: exports are in the order of writing.
    return max(reversed(leaves), key=written, default=None)
