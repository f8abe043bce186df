"""Mem0's memories (`get_all`, the REST export) and its history table, as JSON.

    {"results": [{"id", "memory", "user_id", "created_at", "updated_at", "metadata", …}], …}
    [{"id", "memory_id", "old_memory", "new_memory", "event", "created_at", "updated_at", …}]

A memory that was updated keeps its older texts as facts that have ended.  One that was deleted is left
out with its older texts: the person, or the system, did not want it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from memos_vllm.importers.foreign.records import guarded, label, moment, text_of
from memos_vllm.importers.skipped import Skipped

_EVENTS = ("ADD", "UPDATE", "DELETE", "NONE")


def is_memory(record: Mapping[str, Any]) -> bool:
    return isinstance(record.get("memory"), str) or isinstance(record.get("data"), str)


def is_history(record: Mapping[str, Any]) -> bool:
    return "memory_id" in record and ("event" in record or "new_memory" in record)


def read_memories(
    records: Sequence[tuple[str, Mapping[str, Any]]], skipped: Skipped
) -> Iterator[dict[str, Any]]:
    """Facts of memories and of rows of the history, which may come in one dump.

    Args:
        records: (place in the file, record).
    """
    rows: dict[str, list[Mapping[str, Any]]] = {}
    memories: dict[str, Mapping[str, Any]] = {}
    for place, record in records:
        if is_history(record):
            rows.setdefault(label(record["memory_id"], place), []).append(record)
        elif not is_memory(record):
            skipped.add("record", "it is neither a memory nor a row of the history", place)
        else:
            memories.setdefault(label(record.get("id"), place), record)
    for memory_id, record in memories.items():
        past = sorted(rows.pop(memory_id, []), key=_at)
        read = partial(_memory, memory_id, record, past, skipped)
        yield from guarded(read, memory_id, skipped)
    for memory_id, left in rows.items():
        read = partial(_from_history, memory_id, sorted(left, key=_at), skipped)
        yield from guarded(read, memory_id, skipped)


def _memory(
    memory_id: str,
    record: Mapping[str, Any],
    past: Sequence[Mapping[str, Any]],
    skipped: Skipped,
) -> Iterator[dict[str, Any]]:
    text = text_of(record.get("memory") or record.get("data"))
    metadata = record.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    if (record.get("role") or metadata.get("role")) == "assistant":
        skipped.add("memory", "it was drawn from what the assistant said", memory_id)
        return
    if not text:
        skipped.add("memory", "it has no text", memory_id)
        return
    user = record.get("user_id") or metadata.get("user_id")
    about = {
        "user": label(user, "") or None,
        "session": label(record.get("run_id") or metadata.get("run_id"), "") or None,
    }
    yield from _older(memory_id, text, past, about)
    yield {
        "kind": "fact",
        "id": memory_id,
        "text": text,
        "time": moment(record.get("updated_at")) or moment(record.get("created_at")),
        "ended": moment(record.get("expiration_date")),
        **about,
    }


def _from_history(
    memory_id: str, rows: Sequence[Mapping[str, Any]], skipped: Skipped
) -> Iterator[dict[str, Any]]:
    """A memory of which the dump has the history alone."""
    last = rows[-1]
    if str(last.get("event")).upper() == "DELETE" or last.get("is_deleted"):
        skipped.add("memory", "it was deleted in Mem0", memory_id)
        return
    if last.get("role") == "assistant":
        skipped.add("memory", "it was drawn from what the assistant said", memory_id)
        return
    text = text_of(_new(last))
    if not text:
        skipped.add("memory", "the last row of its history has no text", memory_id)
        return
    yield from _older(memory_id, text, rows, {})
    yield {"kind": "fact", "id": memory_id, "text": text, "time": _moment(last)}


def _older(
    memory_id: str, current: str, rows: Sequence[Mapping[str, Any]], about: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Older texts of a memory, each until the row that replaced it."""
    known, began = {current}, None
    for number, row in enumerate(rows):
        event = str(row.get("event")).upper()
        old = text_of(row.get("old_memory") or row.get("prev_value"))
        if event == "UPDATE" and old and old not in known:
            known.add(old)
            yield {
                "kind": "fact",
                "id": f"{memory_id[:480]}/{number}",
                "text": old,
                "time": began or moment(row.get("created_at")),
                "ended": _moment(row),
                "replaced_by": memory_id,
                **about,
            }
        began = _moment(row)


def _new(row: Mapping[str, Any]) -> Any:
    return row.get("new_memory") or row.get("new_value") or row.get("old_memory")


def _moment(row: Mapping[str, Any]) -> str | None:
    return moment(row.get("updated_at")) or moment(row.get("created_at"))


def _at(row: Mapping[str, Any]) -> str:
    return _moment(row) or ""
