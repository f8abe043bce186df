"""Source of an import: a known number of cubes from a file, in a fixed order.

The fixed order makes an interrupted import resumable; names derived from the content make a repeated
import idempotent.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Concatenate, ParamSpec

from pydantic import ValidationError

from memos_vllm.cube.model import ExplicitPayload, Item, NewCube, NewMeta, Provenance, State
from memos_vllm.errors import BadRequest
from memos_vllm.importers.skipped import Skipped

_PLAIN = re.compile(r"[\w.:@+ -]{1,120}")


@dataclasses.dataclass(frozen=True, slots=True)
class ImportedCube:
    new: NewCube
    state: State = State.ACTIVATED
    """Final state; a cube cannot be created archived or frozen."""
    copy_of: str | None = None
    """Id of the cube that it restores. Nothing is appended to a restored cube."""
    is_conversation: bool = False
    """Its turns are read for claims."""


@dataclasses.dataclass(frozen=True, slots=True)
class ImportSource:
    format: str
    path: Path
    total: int
    cubes: Callable[[], Iterator[ImportedCube]]
    """Starts from the beginning on each call."""
    notes: tuple[str, ...] = ()
    """Notes for the user, shown before the import starts."""
    skipped: Skipped = dataclasses.field(default_factory=Skipped)
    """What of the file is left out; complete when all cubes were read."""


_Arguments = ParamSpec("_Arguments")
# What code that expects one shape raises on another; ValidationError is a ValueError.
MISSHAPEN = (ValueError, TypeError, AttributeError, LookupError, OverflowError)


def refusing_other_shapes(
    read: Callable[Concatenate[Path, _Arguments], ImportSource],
) -> Callable[Concatenate[Path, _Arguments], ImportSource]:
    """A reader of files, which are valid JSON of any shape: one that does not fit is a BadRequest."""

    @functools.wraps(read)
    def refusing(
        path: Path, /, *args: _Arguments.args, **kwargs: _Arguments.kwargs
    ) -> ImportSource:
        try:
            return read(path, *args, **kwargs)
        except MISSHAPEN as error:
            problem = str(error)
            if isinstance(error, ValidationError):
                first = error.errors()[0]
                problem = f"`{'.'.join(map(str, first['loc']))}`: {first['msg']}"
            raise BadRequest(
                f"{path}: a value has another shape than this format has ({problem[:300]}); "
                "correct it or remove the record"
            ) from error

    return refusing


def import_name(*parts: str) -> str:
    """Name of an imported cube, such as `jsonl:notes:1`; an invalid part is replaced by its digest."""
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
