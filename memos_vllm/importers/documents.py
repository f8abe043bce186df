"""Importer of documents: passages as cubes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from memos_vllm.cube.model import Item
from memos_vllm.importers.files import read_bytes
from memos_vllm.importers.source import ImportSource, chunk_cube

FORMAT = "document"


def document_source(
    path: Path,
    person: str | None,
    items_per_cube: int,
    max_bytes: int,
    read: Callable[[str, bytes, int], list[Item]],
) -> ImportSource:
    """Cubes of a Markdown, HTML, PDF or plain text file, with `items_per_cube` passages each.

    Args:
        person: the owner; None: the tenant's shared memory.
        read: `DocumentParsers.read`.
    Raises:
        BadRequest, TooLarge, Unprocessable: nothing was imported.
    """
    items = read(path.name, read_bytes(path, max_bytes), max_bytes)
    cubes = [
        chunk_cube(
            FORMAT,
            path.name,
            start // items_per_cube + 1,
            items[start : start + items_per_cube],
            person=person,
        )
        for start in range(0, len(items), items_per_cube)
    ]
    return ImportSource(FORMAT, path, len(cubes), lambda: iter(cubes))
