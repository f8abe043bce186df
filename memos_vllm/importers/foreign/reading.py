"""Reading of one file of another system: its kind by its content, then its records."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

from memos_vllm import strict_json
from memos_vllm.errors import BadRequest, MemosError, TooLarge
from memos_vllm.importers.foreign import chatgpt, claude, mem0, memos_dump
from memos_vllm.importers.foreign.elements import list_elements
from memos_vllm.importers.foreign.records import guarded
from memos_vllm.importers.foreign.zips import SafeZip
from memos_vllm.importers.skipped import Skipped

CHATGPT, CLAUDE, MEM0, MEMOS = "chatgpt", "claude", "mem0", "memos"
FOREIGN = (CHATGPT, CLAUDE, MEM0, MEMOS)
OURS = {"openai-chat": "messages", "jsonl": "text", "locomo": "conversation"}
"""Formats with an importer of their own, and a field of their records."""
_LOOKED_AT = 20
"""Records from which the kind is told."""
_LISTS = ("results", "memories", "history", "nodes", "conversations", "data")
_PREFERENCES = ("explicit_preference", "implicit_preference")
_CONVERSATIONS = re.compile(r"conversations(-\d+)?\.json")
_SQLITE = "SQLite format 3"

Placed = tuple[str, Mapping[str, Any]]
"""(place in the file, record)."""
Emit = Callable[[dict[str, Any]], None]


def read_file(path: Path, wanted: str, order: Mapping[str, int], emit: Emit) -> tuple[str, Skipped]:
    """Read a file; each record goes to `emit`.

    Args:
        wanted: one of `FOREIGN`; `auto`: by the content.
        order: limits: `members`, `ratio`, `text_bytes`.
    Returns:
        (kind, what is left out). A kind of `OURS` has emitted nothing: its own importer reads it.
    Raises:
        BadRequest: of no known kind, damaged, or unsafe; the message says what to do.
        TooLarge, Unprocessable
    """
    skipped = Skipped()
    with path.open("rb") as file:
        is_zip = file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")
    if is_zip:
        return _read_zip(path, wanted, order, emit, skipped), skipped
    if path.stat().st_size > order["text_bytes"]:
        raise TooLarge(f"{path}: more than {order['text_bytes']} bytes (imports.text_bytes)")
    with path.open(encoding="utf-8-sig") as text:
        try:
            return _read_text(text, str(path), wanted, emit, skipped), skipped
        except UnicodeDecodeError as error:
            raise BadRequest(_what_else(path)) from error


def _read_zip(
    path: Path, wanted: str, order: Mapping[str, int], emit: Emit, skipped: Skipped
) -> str:
    limits = {name: order[name] for name in ("members", "ratio", "text_bytes")}
    with closing(SafeZip(path, **limits)) as opened:
        chosen = [name for name in opened.names if _is_read(name)]
        if not any(_base(name) != "projects.json" for name in chosen):
            raise BadRequest(
                f"{path}: it holds no conversations.json and no textual_memory.json; import the file that "
                "the service sent, as it is"
            )
        kind = wanted
        for name in sorted(chosen, key=lambda each: (_base(each) == "projects.json", each)):
            with opened.text(name) as text:
                kind = _read_text(text, f"{path}: {name}", kind, emit, skipped)
        for name in opened.names:
            if name not in chosen:
                skipped.add("file of the archive", "it holds no conversation", name)
    return kind


def _is_read(name: str) -> bool:
    base = _base(name)
    return base in ("projects.json", "textual_memory.json") or bool(_CONVERSATIONS.fullmatch(base))


def _base(name: str) -> str:
    return PurePosixPath(name).name


def _read_text(text: TextIO, what: str, wanted: str, emit: Emit, skipped: Skipped) -> str:
    records = iter(_records(text, what, skipped))
    first = list(itertools.islice(records, _LOOKED_AT))
    kind = wanted if wanted != "auto" else _kind(what, [record for _, record in first])
    if kind in OURS:
        return kind
    for made in _read(kind, itertools.chain(first, records), skipped):
        emit(made)
    return kind


def _read(kind: str, records: Iterable[Placed], skipped: Skipped) -> Iterator[dict[str, Any]]:
    if kind == MEM0:
        yield from mem0.read_memories(list(records), skipped)
    elif kind == MEMOS:
        yield from memos_dump.read_items(list(records), skipped)
    else:
        of_chats = _chatgpt if kind == CHATGPT else _claude
        for place, record in records:
            yield from guarded(partial(of_chats, record, place, skipped), place, skipped)


def _chatgpt(record: Mapping[str, Any], place: str, skipped: Skipped) -> Iterator[dict[str, Any]]:
    made = chatgpt.read_conversation(record, place, skipped)
    if made is not None:
        yield made


def _claude(record: Mapping[str, Any], place: str, skipped: Skipped) -> Iterator[dict[str, Any]]:
    if "chat_messages" in record:
        yield from claude.read_conversation(record, place, skipped)
    elif "docs" in record or "prompt_template" in record:
        yield from claude.read_project(record, place, skipped)
    else:
        skipped.add("record", "it is neither a conversation nor a project", place)


def _kind(what: str, records: list[Mapping[str, Any]]) -> str:
    """Raises BadRequest."""
    for record in records:
        if "mapping" in record:
            return CHATGPT
        if "chat_messages" in record or ("docs" in record and "prompt_template" in record):
            return CLAUDE
        if mem0.is_history(record):
            return MEM0
        if memos_dump.is_item(record) and not {"user_id", "hash", "created_at"} & set(record):
            return MEMOS
        if mem0.is_memory(record):
            return MEM0
        for kind, field in OURS.items():
            if field in record:
                return kind
    raise BadRequest(
        f"{what}: of no known kind: it is no export of ChatGPT, Claude, Mem0 or MemOS, no archive of "
        "`memos export`, and has no JSON lines with `text`; if you know what it is, say so with --format"
    )


def _records(text: TextIO, what: str, skipped: Skipped) -> Iterator[Placed]:
    """Records of a list, of JSON lines, or of an object that holds a list."""
    head = _head(text)
    if head.startswith("["):
        for number, element in enumerate(list_elements(_behind(head, text), what), start=1):
            yield from _checked(element, f"record {number}", skipped)
        return
    if not head.startswith("{"):
        raise BadRequest(_what_else(Path(what), head))
    if _begins_lines(head):
        yield from _lines(_behind(head, text), skipped)
        return
    whole = head + text.read(strict_json.MOST_BYTES + 1)
    yield from _of_object(strict_json.parse(whole, what=what, keep_surrogates=True))


def _begins_lines(head: str) -> bool:
    """Whether a line is a record of its own, and not an object that holds a list of them."""
    try:
        record = json.loads(head)
    except (ValueError, RecursionError):
        return False
    lists = (*_LISTS, *_PREFERENCES)
    return isinstance(record, dict) and not any(isinstance(record.get(n), list) for n in lists)


def _head(text: TextIO) -> str:
    """The first line that is not blank."""
    while line := text.readline(strict_json.MOST_BYTES):
        if line.strip():
            return line.lstrip()
    return ""


def _behind(head: str, text: TextIO) -> Callable[[int], str]:
    """A reader of what was read already, then of the rest."""
    waiting = [head]
    return lambda count: waiting.pop() if waiting else text.read(count)


def _lines(read: Callable[[int], str], skipped: Skipped) -> Iterator[Placed]:
    number, rest = 0, ""
    while chunk := read(1 << 20):
        *lines, rest = (rest + chunk).split("\n")
        if len(rest) > strict_json.MOST_BYTES:
            raise TooLarge(f"a line of more than {strict_json.MOST_BYTES} characters")
        for line in lines:
            number += 1
            yield from _checked(line, f"line {number}", skipped)
    yield from _checked(rest, f"line {number + 1}", skipped)


def _checked(element: str, place: str, skipped: Skipped) -> Iterator[Placed]:
    """One bad record stops no other."""
    if not element.strip():
        return
    try:
        record = strict_json.parse(element, what=place, keep_surrogates=True)
    except MemosError as error:
        skipped.add("record", error.message.removeprefix(f"{place}: ")[:200], place)
        return
    if isinstance(record, dict):
        yield place, record
    else:
        skipped.add("record", "it is no JSON object", place)


def _of_object(tree: Any) -> Iterator[Placed]:
    if not isinstance(tree, dict):
        return
    lists = [name for name in (*_LISTS, *_PREFERENCES) if isinstance(tree.get(name), list)]
    if not lists:
        yield "the file", tree  # one conversation
    for name in lists:
        for number, record in enumerate(tree[name], start=1):
            yield f"{name} {number}", record if isinstance(record, dict) else {}


def _what_else(path: Path, head: str = "") -> str:
    if head.startswith(_SQLITE) or _is_sqlite(path):
        return (
            f"{path}: a SQLite database. Of Mem0's history, write the table as JSON: "
            "sqlite3 -json history.db 'SELECT * FROM history' > history.json"
        )
    return (
        f"{path}: neither JSON nor a zip file; import the file that the service sent, as it is, or a "
        "document with `memos import document`"
    )


def _is_sqlite(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_SQLITE)) == _SQLITE.encode()
    except OSError:
        return False
