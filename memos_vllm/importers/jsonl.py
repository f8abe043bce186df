"""Importer of JSON lines, the generic form: one object a line.

{"text": "…", "person"?, "speaker"?, "time"?, "session"?, "source"?, "tags"?, "type"?}
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator

from memos_vllm.cube.model import Item, ItemType, Label, Strict, Tag, Text
from memos_vllm.errors import BadRequest
from memos_vllm.importers.files import json_lines
from memos_vllm.importers.source import (
    ImportedCube,
    ImportSource,
    chunk_cube,
    refusing_other_shapes,
    storable,
)

FORMAT = "jsonl"
_Group = tuple[str | None, str]  # person, session or file name


class Line(Strict):
    text: Text
    person: Label | None = None
    speaker: Label | None = None
    time: datetime | None = None
    session: Label | None = None
    source: Label | None = None
    tags: list[Tag] = Field(default_factory=list, max_length=62)
    type: ItemType | None = None

    @field_validator("text", mode="before")
    @classmethod
    def _clean(cls, value: Any) -> Any:
        return storable(value) if isinstance(value, str) else value

    def item(self) -> Item:
        kind = self.type or (ItemType.EPISODE if self.speaker else ItemType.PASSAGE)
        return Item(
            type=kind,
            text=self.text,
            speaker=self.speaker,
            time=self.time,
            session=self.session,
            source=self.source,
        )


@refusing_other_shapes
def jsonl_source(path: Path, person: str | None, items_per_cube: int) -> ImportSource:
    """Lines grouped by person and session (else file), `items_per_cube` to a cube.

    Args:
        person: owner of the lines without a person; None: the tenant's shared memory.
    Raises:
        BadRequest: an invalid line; nothing was imported.
    """
    # All lines are checked before the first one is imported.
    total, shared = 0, 0
    for cube in _cubes(path, person, items_per_cube):
        total += 1
        shared += cube.new.meta.person is None
    if not total:
        raise BadRequest(f"{path}: the file has no line to import")
    notes = (
        (f"{shared} of {total} cubes name no person: everyone in the tenant will read them",)
        if shared
        else ()
    )
    return ImportSource(FORMAT, path, total, lambda: _cubes(path, person, items_per_cube), notes)


def _cubes(path: Path, person: str | None, items_per_cube: int) -> Iterator[ImportedCube]:
    """Yield a group's cube as soon as it is full, so that memory stays bounded."""
    open_lines: dict[_Group, list[Line]] = {}
    parts: dict[_Group, int] = {}
    for number, raw in json_lines(path):
        line = parse_line(path, number, raw)
        group = (line.person or person, line.session or path.stem)
        lines = open_lines.setdefault(group, [])
        lines.append(line)
        if len(lines) == items_per_cube:
            parts[group] = parts.get(group, 0) + 1
            yield _cube(group, parts[group], open_lines.pop(group))
    for group, lines in open_lines.items():
        yield _cube(group, parts.get(group, 0) + 1, lines)


def parse_line(path: Path, number: int, raw: dict[str, Any]) -> Line:
    """Raises BadRequest, naming file, line, field and remedy."""
    try:
        return Line.model_validate(raw)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            nearest = difflib.get_close_matches(where, Line.model_fields, n=1, cutoff=0.0)[0]
            reason = f"unknown key `{where}`; did you mean `{nearest}`? Rename it or leave it out"
        elif where == "text":
            reason = f"`text`: {problem['msg']}; give each line a text, or remove the line"
        else:
            reason = f"`{where}`: {problem['msg']}; correct it or leave `{where}` out"
        raise BadRequest(f"{path}:{number}: {reason}") from error


def _cube(group: _Group, part: int, lines: list[Line]) -> ImportedCube:
    person, label = group
    tags = list(dict.fromkeys(tag for line in lines for tag in line.tags))
    items = [line.item() for line in lines]
    return chunk_cube(FORMAT, label, part, items, person=person, tags=tags)
