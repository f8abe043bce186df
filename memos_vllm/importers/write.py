"""Writer of imported cubes, batch by batch, with the position saved after each.

a new name               → created
an existing name         → its missing items are appended (a file that grew)
no item is missing       → skipped
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from memos_vllm.cube.ids import to_us
from memos_vllm.cube.lifecycle import WRITABLE, legal_after
from memos_vllm.cube.model import CubePatch, Item, MemCube, State
from memos_vllm.errors import NotFound
from memos_vllm.governance.principal import Principal
from memos_vllm.importers.bundle import ORIGIN
from memos_vllm.importers.position import ImportPosition
from memos_vllm.importers.source import ImportedCube, ImportSource
from memos_vllm.system import MemorySystem
from memos_vllm.vault.listing import every
from memos_vllm.vault.views import CubeFilter

BATCH_CUBES = 8


class Learner(Protocol):
    """Reads imported conversations for claims (`learning.imported`)."""

    def before(self, principal: Principal, items: list[Item]) -> None:
        """Take up the claims of turns that are stored next. A second time it changes nothing."""
        ...

    def after(self, cube: MemCube, items: list[Item]) -> None:
        """Queue what reads the stored turns later."""
        ...


def run_import(
    system: MemorySystem,
    principal: Principal,
    source: ImportSource,
    position: ImportPosition,
    progress: Callable[[int], None] = lambda done: None,
    learner: Learner | None = None,
) -> None:
    """Import from `position` to the end; `position` holds the counts afterwards.

    A kill at any point leaves a position from which the next run continues: a batch that was stored
    and not counted is met again by its names, and skipped.
    """
    principal = dataclasses.replace(principal, epoch=system.erasures.serial)
    writer = _Writer(system, principal, learner)
    remaining = itertools.islice(source.cubes(), position.done, None)
    while batch := list(
        itertools.islice(remaining, min(BATCH_CUBES, system.config.limits.batch_cubes))
    ):
        writer.write(batch, position)
        position.done += len(batch)
        position.save()
        progress(position.done)
    position.finished = True
    position.save()


class _Writer:
    def __init__(
        self, system: MemorySystem, principal: Principal, learner: Learner | None = None
    ) -> None:
        self._system = system
        self._principal = principal
        self._learner = learner
        self._copies: dict[tuple[str | None, str], str] | None = None

    def write(self, batch: Iterable[ImportedCube], position: ImportPosition) -> None:
        fresh: list[ImportedCube] = []
        redactor = self._system.redactors.of(self._principal.tenant)
        for cube in batch:
            # As the vault stores it: else what was kept out would be missing at the next import.
            cube = dataclasses.replace(cube, new=redactor.cube(cube.new))
            held = self._held(cube)
            if held is None:
                fresh.append(cube)
            elif cube.copy_of:
                self._finish_state(cube, held)
                position.skipped += 1
            elif self._extend(held, cube):
                position.extended += 1
            else:
                position.skipped += 1
        for cube in fresh:
            self._learn(cube, cube.new.items)
        made = self._system.create(self._principal, [cube.new for cube in fresh]) if fresh else []
        for cube, new in zip(fresh, made, strict=True):
            self._finish_state(cube, new)
            self._learn(cube, cube.new.items, new)
        position.created += len(made)

    def _held(self, cube: ImportedCube) -> MemCube | None:
        """The owner's cube of that name, or the copy of this one from an earlier run."""
        owner = cube.new.meta.person or self._principal.person or None
        if cube.copy_of and (copy := self._earlier_copies().get((owner, cube.copy_of))):
            return self._system.vault.get(self._principal, copy)
        if cube.new.meta.name is None:
            return None
        try:
            held = self._system.vault.get(self._principal.as_person(owner), cube.new.meta.name)
        except NotFound:
            return None
        return held if held.meta.person == owner else None

    def _earlier_copies(self) -> dict[tuple[str | None, str], str]:
        if self._copies is None:
            self._copies = {
                (header.person, parent): header.id
                for header in every(self._system.views, self._principal, CubeFilter())
                if header.provenance.origin == ORIGIN
                for parent in header.provenance.parents
            }
        return self._copies

    def _extend(self, held: MemCube, cube: ImportedCube) -> bool:
        """Append the new items that the cube lacks, unless it is frozen or expired."""
        new = cube.new
        missing = _missing(held.items, new.items, cut_from=self._system.config.limits.chunk_tokens)
        if not missing or held.meta.state not in WRITABLE:
            return False
        self._learn(cube, missing)
        patch = CubePatch(append=missing, provenance=new.meta.provenance)
        made = self._system.update(self._principal, held.meta.id, patch, if_match=held.meta.version)
        self._learn(cube, missing, made)
        return True

    def _learn(self, cube: ImportedCube, items: list[Item], stored: MemCube | None = None) -> None:
        """Have the turns of a conversation read: before they are stored, so that a kill in between loses
        no claim, and after it."""
        person = cube.new.meta.person or self._principal.person
        if self._learner is None or not cube.is_conversation or not person:
            return
        if stored is None:
            self._learner.before(self._principal.as_person(person), items)
        else:
            self._learner.after(stored, items)

    def _finish_state(self, cube: ImportedCube, made: MemCube) -> None:
        """Move a restored cube from the state of its creation to its original state."""
        if made.meta.state is not State.GENERATED and made.meta.state is not State.ACTIVATED:
            return
        if not _is_ours(cube, made):
            return
        for state in _steps(made.meta.state, cube.state):
            hold = "imported under a hold" if state is State.FROZEN else None
            patch = CubePatch(state=state, provenance=cube.new.meta.provenance, reason=hold)
            self._system.update(self._principal, made.meta.id, patch)


def _is_ours(cube: ImportedCube, made: MemCube) -> bool:
    return made.meta.provenance == cube.new.meta.provenance


def _steps(state: State, goal: State) -> list[State]:
    if state is goal:
        return []
    return [goal] if goal in legal_after(state) else [State.ACTIVATED, goal]


def _missing(held: list[Item], new: list[Item], *, cut_from: int) -> list[Item]:
    """Items of `new` that are not in `held`, as often as they occur.

    An item longer than `cut_from` characters may have been stored as several passages: it is looked
    for in what they make together.
    """
    exact = Counter((_origin(item), item.text) for item in held)
    together: dict[Any, str] = {}
    for item in held:
        together[_origin(item)] = together.get(_origin(item), "") + "".join(item.text.split())
    missing = []
    for item in new:
        key = (_origin(item), item.text)
        if exact[key] > 0:
            exact[key] -= 1
        elif len(item.text) <= cut_from or "".join(item.text.split()) not in together.get(
            key[0], ""
        ):
            missing.append(item)
    return missing


def _origin(item: Item) -> tuple[Any, ...]:
    return (item.speaker, item.time and to_us(item.time), item.session, item.source)
