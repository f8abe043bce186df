"""Imported conversations are read for claims as a remembered turn is: with the time and speaker of then.

The rules read at once, in the order of the conversation.  Where a model reads turns (`reader.mode`), its
jobs are queued, and a running server carries them out in the background.  Orders to forget in an old
conversation are history: an import adds memory and deletes none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from memos_vllm.cube.model import Item, MemCube
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.learning.extract import subject_of
from memos_vllm.learning.turn_claims import TurnClaims
from memos_vllm.vault.jobs import READ

if TYPE_CHECKING:
    from memos_vllm.system import MemorySystem

_ALONE = "\x00"
"""Begins the id of an item that names no turn: no model finds its turn, the rules read it."""


class ImportedTurns:
    """A `importers.write.Learner`."""

    def __init__(self, system: MemorySystem, origin: str) -> None:
        """
        Args:
            origin: in the provenance of claims, such as `import:chatgpt`.
        """
        self._system, self._origin = system, origin
        self._claims = TurnClaims(system)

    def before(self, principal: Principal, items: list[Item]) -> None:
        """Take up the claims of turns that are stored next."""
        person = dataclasses.replace(principal, role=Role.WRITER)
        for _, turn in _turns(items):
            self._claims.take(person, turn, self._origin)

    def after(self, cube: MemCube, items: list[Item]) -> None:
        """Queue the model's reading of stored turns."""
        config = self._system.config
        if config.reader.mode == "fast" or not config.remember.claims:
            return
        for turn, said in _turns(items):
            if not turn.startswith(_ALONE) and any(
                item.speaker == cube.meta.person for item in said
            ):
                self._system.jobs.add(READ, subject_of(cube.meta.id, turn))


def _turns(items: Iterable[Item]) -> Iterator[tuple[str, list[Item]]]:
    """(id of the turn, its items), in order."""
    turns: dict[str, list[Item]] = {}
    for number, item in enumerate(items):
        turn = (item.source or "").rpartition(":")[0]
        turns.setdefault(turn or f"{_ALONE}{number}", []).append(item)
    yield from turns.items()
