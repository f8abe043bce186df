"""Claude's export: `conversations.json`, `projects.json`, and files with account data.

Text that was attached to a message, and documents of projects, become documents of the person: they are
not the person's own words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from memos_vllm.importers.foreign.records import label, moment, text_of
from memos_vllm.importers.skipped import Skipped

_ROLES = {"human": "user", "assistant": "assistant"}
_LEAVES = ("current_leaf_message_uuid",)


def read_conversation(
    record: Mapping[str, Any], place: str, skipped: Skipped
) -> Iterator[dict[str, Any]]:
    """The chat, and the texts that were attached to its messages."""
    name = label(record.get("uuid"), place)
    listed = record.get("chat_messages")
    if not isinstance(listed, list):
        skipped.add("conversation", "it has no `chat_messages`", name)
        return
    found = [each for each in listed if isinstance(each, Mapping)]
    if len(found) < len(listed):
        skipped.add("message", "it is no object", name, len(listed) - len(found))
    shown = _shown(record, found)
    for message in found:
        if not any(message is each for each in shown):
            reason = "it is on a branch that is not shown: regenerated, or edited away"
            skipped.add("message", reason, f"{name}/{message.get('uuid')}")
    messages = []
    for number, message in enumerate(shown):
        message_id = label(message.get("uuid"), f"{name}/{number}")
        yield from _attached(message, message_id, skipped)
        if (read := _message(message, message_id, skipped)) is not None:
            messages.append(read)
    if messages:
        title = text_of(record.get("name"))[:2000] or None
        yield {"kind": "chat", "id": name, "title": title, "messages": messages}
    else:
        skipped.add("conversation", "no message of a person or the assistant has text", name)


def read_project(
    record: Mapping[str, Any], place: str, skipped: Skipped
) -> Iterator[dict[str, Any]]:
    """Documents of a project, and its instructions."""
    project = label(record.get("uuid"), place)
    name = label(record.get("name"), project)
    if text := text_of(record.get("prompt_template")):
        made = {"id": f"{project[:480]}/instructions", "name": f"{name[:480]}: instructions"}
        yield {"kind": "document", **made, "text": text, "time": moment(record.get("created_at"))}
    docs = record.get("docs")
    for number, doc in enumerate(docs if isinstance(docs, list) else []):
        text = text_of(doc.get("content")) if isinstance(doc, Mapping) else ""
        if not text:
            skipped.add("document of a project", "it has no text", f"{name}/{number}")
            continue
        yield {
            "kind": "document",
            "id": label(doc.get("uuid"), f"{project[:480]}/{number}"),
            "name": label(doc.get("filename"), name),
            "text": text,
            "time": moment(doc.get("created_at")),
        }


def _message(
    message: Mapping[str, Any], message_id: str, skipped: Skipped
) -> dict[str, Any] | None:
    role = _ROLES.get(str(message.get("sender")))
    if role is None:
        sender = text_of(str(message.get("sender")))[:40]
        skipped.add("message", f"it is of the sender {sender!r}", message_id)
        return None
    text = _text(message, message_id, skipped)
    if not text:
        skipped.add("message", "it has no text", message_id)
        return None
    return {
        "role": role,
        "text": text,
        "time": moment(message.get("created_at")),
        "id": message_id,
    }


def _text(message: Mapping[str, Any], message_id: str, skipped: Skipped) -> str:
    """Texts of the content blocks; of older exports, which have none, the field `text`."""
    blocks = message.get("content")
    texts = []
    for block in blocks if isinstance(blocks, list) else []:
        if isinstance(block, str):
            texts.append(block)
            continue
        kind = block.get("type") if isinstance(block, Mapping) else None
        if kind in ("text", "voice_note") and isinstance(block.get("text"), str):
            texts.append(block["text"])
        else:
            reason = "it is no text that was said"
            skipped.add(f"block {text_of(str(kind))[:40]!r} of a message", reason, message_id)
    joined = text_of("\n".join(text for text in texts if text.strip()))
    return joined if isinstance(blocks, list) and blocks else text_of(message.get("text"))


def _attached(
    message: Mapping[str, Any], message_id: str, skipped: Skipped
) -> Iterator[dict[str, Any]]:
    attachments = message.get("attachments")
    for number, each in enumerate(attachments if isinstance(attachments, list) else []):
        name = each.get("file_name") if isinstance(each, Mapping) else None
        text = text_of(each.get("extracted_content")) if isinstance(each, Mapping) else ""
        if not text:
            skipped.add("attachment", "the export has no text of it", label(name, message_id))
            continue
        yield {
            "kind": "document",
            "id": f"{message_id[:480]}/{number}",
            "name": label(name, "attachment"),
            "text": text,
            "time": moment(message.get("created_at")),
        }
    attached = {
        each.get("file_name")
        for each in (attachments if isinstance(attachments, list) else [])
        if isinstance(each, Mapping)
    }
    files = message.get("files")
    for each in files if isinstance(files, list) else []:
        name = each.get("file_name") if isinstance(each, Mapping) else None
        if name is None or name not in attached:
            skipped.add(
                "file", "the export names it, and does not hold it", label(name, message_id)
            )


def _shown(record: Mapping[str, Any], messages: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The branch that ends with the newest message; all messages where they name no parents."""
    by_id = {each["uuid"]: each for each in messages if isinstance(each.get("uuid"), str)}
    if len(by_id) < len(messages) or not any(
        each.get("parent_message_uuid") in by_id for each in messages
    ):
        return messages
    leaf = next((record.get(key) for key in _LEAVES if record.get(key) in by_id), None)
    current: Any = leaf or messages[-1]["uuid"]
    path: list[Mapping[str, Any]] = []
    while current in by_id and len(path) <= len(messages):
        path.append(by_id[current])
        current = by_id[current].get("parent_message_uuid")
    return path[::-1] if len(path) <= len(messages) else messages
