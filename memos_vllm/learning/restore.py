"""Restore a person's memory to a past moment, as new versions.

Nothing is rewritten: a restore can be taken back by another one, to the moment before it.

    changed since      a new version with the items, tags, placement and state of then
    made since         archived
    deleted since      stays deleted, and so does what was forgotten
    frozen, expired    left as they are, and reported

What the person said after the restore was ordered stays.  The job can be killed and run again: a cube that it
has restored already has a version that names it.
"""

from __future__ import annotations

import logging
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from memos_vllm.cube.lifecycle import TRANSITIONS
from memos_vllm.cube.model import (
    CubePatch,
    ExplicitPayload,
    Item,
    Kind,
    MemCube,
    Provenance,
    State,
)
from memos_vllm.errors import DamagedPayload, Forbidden, NotFound, TooLarge, Unprocessable
from memos_vllm.governance.principal import Principal
from memos_vllm.learning.optimistic import retry_conflicts
from memos_vllm.system import MemorySystem
from memos_vllm.vault.past import CubeRow
from memos_vllm.vault.past_memory import NowAndThen, PastCube
from memos_vllm.vault.restores import Restore

log = logging.getLogger(__name__)
ORIGIN = "restore"
_IN_USE = (State.GENERATED, State.ACTIVATED, State.MERGED)


class Difference(BaseModel):
    """What a restore does, or would do, to one cube. Ids and numbers, no text."""

    cube: str
    action: Literal["restored", "archived", "held", "expired", "damaged", "refused"] = Field(
        description="held: frozen, and left as it is; expired, damaged, refused (by the policy, or a "
        "limit): left as it is"
    )
    added: int = Field(0, description="items that come back")
    removed: int = Field(0, description="items that leave")
    state: str | None = Field(None, description="its state afterwards; null: unchanged")


class Restoring:
    def __init__(self, system: MemorySystem) -> None:
        self._system = system

    def preview(self, caller: Principal, person: str, as_of_us: int) -> list[Difference]:
        """What a restore would do. Raises Forbidden."""
        owner = self._system.restores.owner_of(caller, person)
        return [
            difference
            for each in self._system.past.of_person(owner, as_of_us)
            if (difference := self._difference(owner, each.row, each)[0]) is not None
        ]

    def job(self, subject: str) -> None:
        """Handler of the job `restore`; a second run changes nothing. Raises VaultUnavailable, Conflict."""
        restore = self._system.restores.find(subject)
        if restore is None:
            return
        found: list[Difference] = []
        for each in self._system.past.of_person(restore.owner, restore.as_of_us):
            difference = retry_conflicts(
                lambda each=each: self._cube(restore, each),  # type: ignore[misc]
                "the cube changes faster than it can be restored: try again",
            )
            if difference is not None:
                found.append(difference)
        report: dict[str, Any] = {"cubes": [each.model_dump() for each in found]}
        self._system.restores.done(restore.id, report)

    # -- one cube ---------------------------------------------------------------------------------

    def _cube(self, restore: Restore, each: NowAndThen) -> Difference | None:
        owner, cube, past = restore.owner, each.row.id, each.past
        try:
            if made := self._made_by(restore, cube):
                return made
            row = self._system.past.row(owner, cube)
        except NotFound:
            return None  # deleted meanwhile
        if row.created_us > restore.created_us:
            return None
        difference, current = self._difference(owner, row, each)
        if difference is None or difference.action not in ("restored", "archived"):
            return difference
        try:
            self._write(restore, row, past, difference, current)
        except (Forbidden, Unprocessable, TooLarge) as error:
            log.warning("cube %s is not restored: %s", cube, error)
            return Difference(cube=cube, action="refused")
        except NotFound:
            return None
        return difference

    def _write(
        self,
        restore: Restore,
        row: CubeRow,
        past: PastCube | None,
        difference: Difference,
        current: MemCube | None,
    ) -> None:
        owner, cube = restore.owner, row.id
        note = Provenance(origin=ORIGIN, message_ids=[restore.id, difference.model_dump_json()])
        if difference.action == "archived":
            patch = CubePatch(state=State.ARCHIVED, provenance=note)
            self._system.update(owner, cube, patch, if_match=row.head_version)
            return
        assert past is not None
        if Kind(row.kind) is Kind.PARAMETRIC:
            if past.version.id != row.head_version:
                made_of = self._system.rollback(owner, cube, past.version.id, row.head_version)
                row.head_version = made_of.meta.version
            patch = CubePatch(tags=list(past.tags))
        else:
            assert current is not None
            kept = self._said_since(restore, current)
            items = [*past.items, *(item for item in kept if item not in past.items)]
            patch = CubePatch(payload=ExplicitPayload(content=items), tags=list(past.tags))
        patch = patch.model_copy(
            update={"placement": past.placement, "priority": past.priority, "provenance": note}
        )
        self._through_states(owner, row, past.state, patch)

    def _through_states(
        self, owner: Principal, row: CubeRow, goal: State, patch: CubePatch
    ) -> None:
        """Make the version, in the state of then; the last write carries the note of the restore."""
        version = row.head_version
        *before, last = _steps(State(row.state), goal) or [State(row.state)]
        for state in before:
            between = CubePatch(state=state, provenance=Provenance(origin=ORIGIN))
            version = self._system.update(owner, row.id, between, if_match=version).meta.version
        patch = patch.model_copy(update={"state": last if last != row.state else None})
        self._system.update(owner, row.id, patch, if_match=version)

    def _difference(
        self, owner: Principal, row: CubeRow, each: NowAndThen
    ) -> tuple[Difference | None, MemCube | None]:
        """(what a restore does to a cube; None: nothing, the cube now where it is read).

        Args:
            row: the cube now.
        """
        state, past = State(row.state), each.past
        if past is None and not each.is_later:
            return Difference(cube=row.id, action="damaged"), None
        if past is None:
            if state is State.FROZEN:
                return Difference(cube=row.id, action="held"), None
            if state not in _IN_USE:
                return None, None
            return Difference(cube=row.id, action="archived", state=State.ARCHIVED), None
        try:
            current = self._system.vault.get(owner, row.id)
        except DamagedPayload as error:
            log.error("a damaged cube is not restored: %s", error)
            return Difference(cube=row.id, action="damaged"), None
        except NotFound:
            return None, None  # deleted meanwhile
        difference = _compared(current, past)
        if difference is None:
            return None, current
        if current.meta.state is State.FROZEN:
            return Difference(cube=row.id, action="held"), current
        if current.meta.state is State.EXPIRED:
            return Difference(cube=row.id, action="expired"), current
        return difference, current

    def _said_since(self, restore: Restore, current: MemCube) -> list[Item]:
        """Items that came after the restore was ordered."""
        known = self._system.ageing.stored_before(current.meta.id, restore.created_us)
        if known is None:
            return []
        return [item for item in current.items if item.id not in known]

    def _made_by(self, restore: Restore, cube: str) -> Difference | None:
        """What an earlier run of this restore did to a cube; None: nothing yet."""
        for version in self._system.vault.history(restore.owner, cube):
            origin = version.provenance
            if origin.origin == ORIGIN and origin.message_ids[:1] == [restore.id]:
                try:
                    return Difference.model_validate_json("".join(origin.message_ids[1:]))
                except ValidationError:  # the person wrote this provenance by hand
                    return Difference(cube=cube, action="refused")
        return None


def _compared(current: MemCube, past: PastCube) -> Difference | None:
    now = {item.id: item for item in current.items}
    then = {item.id: item for item in past.items}
    meta = current.meta
    goal = _steps(meta.state, past.state)
    is_same_header = (meta.placement, meta.priority, meta.tags) == (
        past.placement,
        past.priority,
        list(past.tags),
    )
    is_same_payload = list(now.values()) == list(then.values())
    if meta.kind is Kind.PARAMETRIC:
        is_same_payload = past.version.id == meta.version or past.is_head
    if is_same_header and is_same_payload and not goal:
        return None
    return Difference(
        cube=meta.id,
        action="restored",
        added=len(then.keys() - now.keys()),
        removed=len(now.keys() - then.keys()),
        state=goal[-1] if goal else None,
    )


def _steps(state: State, goal: State) -> list[State]:
    """States on the way; none where there is no way, or the goal is a hold or an end."""
    if goal in (state, State.FROZEN, State.EXPIRED):
        return []
    if (state, goal) in TRANSITIONS:
        return [goal]
    by_way = (state, State.ACTIVATED) in TRANSITIONS and (State.ACTIVATED, goal) in TRANSITIONS
    return [State.ACTIVATED, goal] if by_way else []
