"""What an importer makes of a file: a known number of cubes, in an order that never changes.

The order is what makes an interrupted import resumable, and names that follow from the content are
what makes a repeated one harmless.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from memos_vllm.cube.model import ExplicitPayload, Item, NewCube, NewMeta, Provenance, State

_PLAIN = re.compile(r"[\w.:@+ -]{1,120}")


@dataclasses.dataclass(frozen=True, slots=True)
class ImportedCube:
    new: NewCube
    state: State = State.ACTIVATED
    """The state it ends in; a cube cannot be born archived or frozen."""
    copy_of: str | None = None
    """Id of the cube that it restores. A restored cube is never added to."""


@dataclasses.dataclass(frozen=True, slots=True)
class ImportSource:
    format: str
    path: Path
    total: int
    cubes: Callable[[], Iterator[ImportedCube]]
    """Starts from the beginning on each call."""
    notes: tuple[str, ...] = ()
    """What the user should know before it starts."""


def import_name(*parts: str) -> str:
    """`jsonl:notes:1`: a cube's name; a part that would not do in one is replaced by its digest."""
    return ":".join(part if _PLAIN.fullmatch(part) else _digest(part) for part in parts)


def chunk_cube(
    format_name: str,
    label: str,
    part: int,
    items: Sequence[Item],
    *,
    person: str | None,
    tags: Sequence[str] = (),
    note: str | None = None,
) -> ImportedCube:
    """The `part`-th cube (from 1) of a long run of items."""
    meta = NewMeta(
        name=import_name(format_name, label, str(part)),
        person=person,
        tags=["import", format_name, *tags][:64],
        provenance=Provenance(
            origin=f"import:{format_name}",
            session=items[0].session,
            note=note[:2000] if note else None,
        ),
    )
    return ImportedCube(NewCube(meta=meta, payload=ExplicitPayload(content=list(items))))


def storable(text: str) -> str:
    """Without NUL and lone surrogates, which databases refuse, and without blanks around it."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode("utf-8").strip()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
