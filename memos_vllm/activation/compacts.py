"""Compacts in the store: KV of a cube's text in fewer places than the text has tokens.

    <disk>/segments/<model>/<scope>/<key>.safetensors    the KV, a segment like any other
    <disk>/compacts/<cube>/<text>                        where the compact of a text is, and how good

In a prompt a place is a token whose id is read off a digest of the KV: every hash over the prompt names the
KV, and no text has these tokens.  Their KV is loaded and never computed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from memos_vllm.activation.chain import KEY_BYTES
from memos_vllm.activation.names import SegmentName, scope_folder
from memos_vllm.activation.tombstones import short

_TOKEN_BYTES = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Compact:
    """A compact as its note describes it."""

    segment: str
    """`str(SegmentName)` of the first worker's file."""
    cube: str
    """`id@sequence` of the text that it was made of."""
    digest: str
    """Of its KV; the ids of its places come from it."""
    places: int
    tokens: int
    """Of the text."""
    start: int
    """Position in a prompt for which its keys are rotated."""
    method: str
    ranks: tuple[str, ...] = ("",)
    """Of the workers, each with a file of its own heads."""
    kl: float | None = None
    """Mean KL of held-out answers to those with the text in the prompt, nats."""
    recall: float | None = None
    """Share of the questions of the exam that are answered right, over the share with the text."""

    @property
    def cube_id(self) -> str:
        return self.cube.rpartition("@")[0]

    @property
    def name(self) -> SegmentName:
        return SegmentName.parse(self.segment)


class CompactNotes:
    """Notes of all compacts of a store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, cube: str, text: str) -> Compact | None:
        """The compact of a cube's text (`text_key`); None: there is none."""
        return _read(self._of(cube) / text)

    def write(self, text: str, compact: Compact) -> None:
        """Raises OSError."""
        folder = self._of(compact.cube_id)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        unfinished = folder / f".{text}.tmp"
        unfinished.write_text(json.dumps(dataclasses.asdict(compact)))
        unfinished.replace(folder / text)

    def remove(self, text: str, compact: Compact) -> None:
        (self._of(compact.cube_id) / text).unlink(missing_ok=True)

    def forget(self, cube: str) -> None:
        """Remove the notes of a cube's compacts: one folder, whatever others there are."""
        shutil.rmtree(self._of(cube), ignore_errors=True)

    def forget_scope(self, folder: str) -> None:
        """Remove the notes of all compacts in a scope's folder."""
        for text, compact in self.all():
            if compact.name.scope == folder:
                self.remove(text, compact)

    def of_cube(self, cube: str, folders: Collection[str] | None) -> list[Compact]:
        """A cube's compacts, the one with the most places first.

        Args:
            folders: of the scopes; None: of every scope.
        """
        found = [
            compact
            for _, compact in _notes(self._of(cube))
            if folders is None or compact.name.scope in folders
        ]
        return sorted(found, key=lambda compact: -compact.places)

    def all(self) -> Iterator[tuple[str, Compact]]:
        """(text key, compact) of each."""
        with contextlib.suppress(OSError):
            for folder in self.folder.iterdir():
                yield from _notes(folder)

    def _of(self, cube: str) -> Path:
        return self.folder / short(cube)


def _notes(folder: Path) -> Iterator[tuple[str, Compact]]:
    """(text key, compact) of each note in a cube's folder."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if not path.name.startswith(".") and (found := _read(path)) is not None:
                yield path.name, found


def _read(path: Path) -> Compact | None:
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        found = json.loads(path.read_bytes())
        return Compact(**{**found, "ranks": tuple(found["ranks"])})
    return None


def text_key(model: bytes, scope: str, cube: str, text_digest: str) -> str:
    """Name of the note of a cube's text under one model.

    Args:
        cube: id.
        text_digest: `own_digest` of the text's tokens.
    """
    about = "\0".join((scope_folder(scope), cube, text_digest))
    return hashlib.sha256(b"memos compact 1\0" + model + about.encode()).hexdigest()[
        : 2 * KEY_BYTES
    ]


def place_tokens(digest: str, count: int, vocabulary: int, special: frozenset[int]) -> list[int]:
    """Ids of a compact's places: pseudo-random, the same in every process, none of them special."""
    ids: list[int] = []
    number = 0
    while len(ids) < count:
        block = hashlib.sha256(f"{digest} {number}".encode()).digest()
        for start in range(0, len(block), _TOKEN_BYTES):
            token = int.from_bytes(block[start : start + _TOKEN_BYTES], "little") % vocabulary
            if token not in special:
                ids.append(token)
        number += 1
    return ids[:count]
