"""Any file of memory: its kind by its content, and its cubes."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

from memos_vllm.errors import BadRequest
from memos_vllm.importers.bundle import FORMAT as CUBES
from memos_vllm.importers.bundle import bundle_source
from memos_vllm.importers.files import read_bytes
from memos_vllm.importers.foreign.parser import ForeignFiles, Parsed
from memos_vllm.importers.foreign.reading import FOREIGN, OURS
from memos_vllm.importers.foreign.records import Fact
from memos_vllm.importers.foreign.source import foreign_source
from memos_vllm.importers.jsonl import jsonl_source
from memos_vllm.importers.locomo import locomo_source
from memos_vllm.importers.openai_chat import openai_chat_source
from memos_vllm.importers.person.export import FORMAT as PERSON
from memos_vllm.importers.source import ImportSource
from memos_vllm.system import MemorySystem

AUTO = "auto"
FORMATS = (AUTO, PERSON, CUBES, *FOREIGN, *OURS)
_HEADER_BYTES = 64 << 10


def kind_of(path: Path, wanted: str = AUTO) -> str:
    """Format of a file that `memos export` wrote; `auto` for others, whose records tell it.

    Args:
        wanted: one of `FORMATS`, which goes before the content.
    Raises:
        BadRequest: the format does not exist, or the file cannot be read.
    """
    if wanted not in FORMATS:
        raise BadRequest(
            f"unknown format {wanted!r}; there are {', '.join(FORMATS)}", param="format"
        )
    head = read_bytes(path, _HEADER_BYTES).partition(b"\n")[0]
    if wanted != AUTO:
        return wanted
    try:
        header = json.loads(head)
    except (ValueError, RecursionError):
        return AUTO
    found = header.get("format") if isinstance(header, dict) else None
    return str(found) if found in (PERSON, CUBES) else AUTO


def source_of(
    system: MemorySystem, path: Path, kind: str, person: str | None, tenant: str
) -> ImportSource:
    """Cubes of a file that is no person's archive.

    Args:
        kind: from `kind_of`.
        person: whose memory they become; None: the persons that the file names.
    Raises:
        BadRequest: nothing was imported; the message says what to do.
        TooLarge, Unprocessable, Unavailable
    """
    size = system.config.remember.items_per_cube
    if kind == CUBES:
        return bundle_source(path, person)
    if kind not in OURS:
        with closing(ForeignFiles(system.config.imports)) as files:
            parsed = files.read(path, kind, tenant)
        kind = parsed.kind
        if kind not in OURS:
            return foreign_source(path, parsed, person or _only_user(path, parsed), size)
    if kind == "jsonl":
        return jsonl_source(path, person, size)
    if kind == "locomo":
        return locomo_source(path, None, person)
    source = openai_chat_source(path, person, size)
    if any(cube.new.meta.person is None for cube in source.cubes()):
        raise BadRequest(f"{path}: the file does not name the person of these chats: give --person")
    return source


def _only_user(path: Path, parsed: Parsed) -> str:
    """The one person that a file names. Raises BadRequest."""
    users = {each.user for each in parsed.records() if isinstance(each, Fact)} - {None}
    if len(users) != 1:
        named = f"the file names {len(users)} persons" if users else "the file names no person"
        raise BadRequest(f"{path}: {named}: say with --person whose memory it becomes")
    return str(users.pop())
