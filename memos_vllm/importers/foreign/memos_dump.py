"""Text memory as MemOS dumps it (`textual_memory.json`).

    [{"id", "memory", "metadata"}]                             naive and general text memory
    [{"id", "vector", "payload": {"id", "memory", "metadata"}}]   general text memory with a vector store
    {"nodes": [{"id", "memory", "metadata"}], "edges": […]}    tree text memory
    {"explicit_preference": [{… "payload": …}], …}             preference memory

Vectors and edges are left out: the server computes its own.  Pickled KV (`activation_memory.pickle`) is
never read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from memos_vllm.cube.model import ItemType
from memos_vllm.importers.foreign.records import guarded, label, moment, text_of
from memos_vllm.importers.skipped import Skipped

_TYPES = {
    "fact": ItemType.FACT,
    "event": ItemType.EVENT,
    "procedure": ItemType.PROCEDURE,
    "opinion": ItemType.PREFERENCE,
    "preference": ItemType.PREFERENCE,
}
_OF_TREE = {
    "RawFileMemory": ItemType.PASSAGE,
    "ToolSchemaMemory": ItemType.PROCEDURE,
    "ToolTrajectoryMemory": ItemType.PROCEDURE,
    "SkillMemory": ItemType.PROCEDURE,
}


def flat(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The item of a record of a vector store."""
    payload = record.get("payload")
    if isinstance(payload, Mapping) and "memory" in payload:
        return payload
    return record


def is_item(record: Mapping[str, Any]) -> bool:
    item = flat(record)
    return isinstance(item.get("memory"), str) and isinstance(item.get("metadata"), Mapping)


def read_items(
    records: Sequence[tuple[str, Mapping[str, Any]]], skipped: Skipped
) -> Iterator[dict[str, Any]]:
    """Facts of a dump.

    Args:
        records: (place in the file, record).
    """
    seen: set[tuple[str | None, str]] = set()
    for place, record in records:
        item = flat(record)
        if not is_item(record):
            skipped.add("record", "it is no item of a text memory", place)
            continue
        name = label(item.get("id"), place)
        found = guarded(partial(_item, name, item, skipped), name, skipped)
        for fact in found:
            if (key := (fact["user"], fact["text"])) in seen:
                skipped.add("memory", "it repeats another one", name)
                continue
            seen.add(key)
            yield fact


def _item(name: str, item: Mapping[str, Any], skipped: Skipped) -> Iterator[dict[str, Any]]:
    metadata: Mapping[str, Any] = item["metadata"]
    text = text_of(item.get("memory"))
    kind, status = metadata.get("memory_type"), metadata.get("status")
    sources = _sources(metadata.get("sources"))
    roles = {source.get("role") for source in sources} - {None}
    reason = None
    if not text:
        reason = "it has no text"
    elif status == "deleted":
        reason = "it was deleted in MemOS"
    elif kind == "OuterMemory" or metadata.get("source") == "web":
        reason = "it was found on the internet, and is not the person's"
    elif roles == {"assistant"}:
        reason = "it was drawn from what the assistant said"
    if reason is not None:
        skipped.add("memory", reason, name)
        return
    said = [moment(source.get("chat_time")) for source in sources]
    times = [*said, moment(metadata.get("created_at")), moment(metadata.get("memory_time"))]
    changed = moment(metadata.get("updated_at"))
    about: dict[str, Any] = {
        "kind": "fact",
        "user": label(metadata.get("user_id") or metadata.get("user_name"), "") or None,
        "session": label(metadata.get("session_id"), "") or None,
        "type": _type(metadata),
        "confidence": _confidence(metadata.get("confidence")),
    }
    for number, old in enumerate(_history(metadata)):
        if (was := text_of(old.get("memory"))) and was != text:
            yield {
                **about,
                "id": f"{name[:480]}/{number}",
                "text": was,
                "time": moment(old.get("created_at")),
                "ended": changed,
                "replaced_by": name,
            }
    yield {
        **about,
        "id": name,
        "text": text,
        "time": next((each for each in times if each is not None), changed),
        "ended": changed if status == "archived" else None,
    }


def _type(metadata: Mapping[str, Any]) -> str:
    if metadata.get("preference_type") is not None:
        return ItemType.PREFERENCE
    of_tree = _OF_TREE.get(str(metadata.get("memory_type")))
    return of_tree or _TYPES.get(str(metadata.get("type")).lower(), ItemType.FACT)


def _confidence(percent: Any) -> float:
    """MemOS counts to 100."""
    if isinstance(percent, bool) or not isinstance(percent, int | float):
        return 1.0
    return min(1.0, max(0.0, percent / 100 if percent > 1 else float(percent)))


def _history(metadata: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Older texts that newer ones have replaced; those that were only written anew are none."""
    history = metadata.get("history")
    return [
        each
        for each in (history if isinstance(history, list) else [])
        if isinstance(each, Mapping) and each.get("update_type") == "conflict"
    ]


def _sources(sources: Any) -> list[Mapping[str, Any]]:
    found = []
    for each in sources if isinstance(sources, list) else []:
        if isinstance(each, str):
            try:
                each = json.loads(each)
            except (ValueError, RecursionError):
                continue
        if isinstance(each, Mapping):
            found.append(each)
    return found
