"""Forget, and undo it: text leaves a person's cubes by new versions, which can be taken back for a while.

    forget    new versions without the text; KV of the old ones and of the person's conversations is wiped
    undo      within `remember.undo_seconds`: the items come back as they were; KV stays wiped
    purge     after that time, by a job: the versions with the text and their files are deleted

Adapters that the person owns hold memory as weights, which no order can cut: one about all memory
archives them, and the purge deletes them.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from memos_vllm import metrics
from memos_vllm.cube.ids import CubeId, new_id, now_us, to_datetime
from memos_vllm.cube.lifecycle import WRITABLE
from memos_vllm.cube.model import (
    CubePatch,
    ExplicitPayload,
    Header,
    Item,
    Kind,
    MemCube,
    Provenance,
    State,
)
from memos_vllm.errors import DamagedPayload, NotFound
from memos_vllm.governance.principal import EVERY_PERSONA, Principal
from memos_vllm.learning.forget_what import Chooser, Loss, Memory, everything
from memos_vllm.learning.optimistic import retry_conflicts
from memos_vllm.plaintext.reader.forgetting import Order
from memos_vllm.vault.forgotten import Forgotten, ForgottenStore
from memos_vllm.vault.listing import every
from memos_vllm.vault.vault import InTransaction
from memos_vllm.vault.views import CubeFilter

if TYPE_CHECKING:
    from memos_vllm.system import MemorySystem

log = logging.getLogger(__name__)
MOST_FORGOTTEN = 50
"""Items that an order about something may concern; with more, it is not carried out unasked."""
_PAGE = 200
_PENDING_SECONDS = 2.0
ORIGIN = "feedback"


@dataclasses.dataclass(frozen=True, slots=True)
class Removal:
    """What one item lost."""

    cube: str
    version: str | None
    """The cube's new version; None: nothing was changed (a dry run)."""
    item: Item
    lost: str
    is_whole: bool
    """Whether the whole item went."""


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What orders removed, or would remove."""

    removals: list[Removal] = dataclasses.field(default_factory=list)
    undo: str | None = None
    """Id under which it can be undone; None: nothing was changed."""
    undo_until: datetime | None = None
    is_wide: bool = False
    too_many: bool = False
    """Not carried out: more than `MOST_FORGOTTEN` items match."""


class Forgetting:
    def __init__(self, system: MemorySystem) -> None:
        self._system = system

    def orders(
        self,
        principal: Principal,
        orders: Sequence[Order],
        *,
        dry_run: bool = False,
        confirmed: bool = False,
        until: datetime | None = None,
    ) -> Outcome:
        """Carry out orders in the person's own memory, every persona's.

        Args:
            confirmed: also where more than `MOST_FORGOTTEN` items match.
            until: what was said later stays.
        """
        headers = list(self._own(principal))
        cubes = list(self._read(principal, headers))
        memory = Memory(principal.person, cubes)
        wide = any(order.is_wide for order in orders)
        if wide:
            losses = everything(memory, until)
        else:
            losses = Chooser(memory, self._system.embedder).losses(orders, until)
            if len(losses) > MOST_FORGOTTEN and not (confirmed or dry_run):
                return Outcome(_planned(losses), too_many=True)
        adapters = [h for h in headers if h.kind is Kind.PARAMETRIC] if wide else []
        return self._carry_out(principal, losses, adapters, dry_run=dry_run, wide=wide)

    def items(
        self, principal: Principal, located: Sequence[tuple[str, Item]], dry_run: bool
    ) -> Outcome:
        """Remove whole items."""
        losses = [Loss(cube, item, item.text, None) for cube, item in located]
        return self._carry_out(principal, losses, (), dry_run=dry_run, wide=False)

    def rest(self, principal: Principal, text: str, orders: Iterable[Order]) -> str:
        """What else a message with orders says, without what they name."""
        if not text or any(order.is_wide for order in orders):
            return ""
        cubes = list(self._read(principal, list(self._own(principal))))
        return Chooser(Memory(principal.person, cubes), self._system.embedder).cut(text, orders)

    def undo(self, principal: Principal, undo: str) -> list[Removal]:
        """Take back what was forgotten under an id.

        Raises:
            NotFound: the id is unknown, of another person, undone already, or its time is over.
        """
        found = self._system.forgotten.undoable(principal, undo)
        if not found:
            raise NotFound(
                f"there is nothing to undo under {undo!r}: it is unknown, undone, or its time is over",
                param="undo",
            )
        restored: list[Removal] = []
        for each in found:
            restored += retry_conflicts(
                lambda each=each: self._restore(principal, each),  # type: ignore[misc]
                "the cube changes faster than its items can be restored: try again",
            )
        return restored

    def purge(self, subject: str) -> None:
        """Handler of the job `purge`: delete the versions that still have forgotten text; idempotent."""
        purged = self._system.forgotten.purge(subject)
        if purged is None:
            return
        owner, forgotten = purged
        try:
            cube = self._system.vault.get(owner.in_persona(EVERY_PERSONA), forgotten.cube)
        except (NotFound, DamagedPayload):
            return
        is_gone = cube.meta.kind is Kind.PARAMETRIC and cube.meta.state is State.ARCHIVED
        if is_gone or (cube.meta.kind is Kind.EXPLICIT and not cube.items):
            self._system.delete(owner, forgotten.cube, if_match=cube.meta.version)

    def await_pending(self, principal: Principal) -> None:
        """Wait, 2 seconds at most, until what the person said before has become memory."""
        deadline = time.monotonic() + _PENDING_SECONDS
        while self._system.turns.waiting_of(principal) and time.monotonic() < deadline:
            time.sleep(0.02)

    # -- inside -----------------------------------------------------------------------------------

    def _own(self, principal: Principal) -> Iterator[Header]:
        """All cubes of the person, oldest first, in every state and persona."""
        everyone = principal.in_persona(EVERY_PERSONA)
        found = list(every(self._system.views, everyone, CubeFilter(person=principal.person)))
        return reversed(found)

    def _read(self, principal: Principal, headers: Sequence[Header]) -> Iterator[MemCube]:
        everyone = principal.in_persona(EVERY_PERSONA)
        for header in headers:
            if header.kind is not Kind.EXPLICIT:
                continue
            try:
                yield self._system.vault.get(everyone, header.id)
            except NotFound:
                continue  # deleted meanwhile
            except DamagedPayload as error:
                log.error("nothing is forgotten in a damaged cube: %s", error)

    def _carry_out(
        self,
        principal: Principal,
        losses: Sequence[Loss],
        adapters: Sequence[Header],
        *,
        dry_run: bool,
        wide: bool,
    ) -> Outcome:
        if dry_run or not (losses or adapters):
            return Outcome(_planned(losses), is_wide=wide)
        undo = new_id("undo")
        by_cube: dict[str, list[Loss]] = {}
        for loss in losses:
            by_cube.setdefault(loss.cube, []).append(loss)
        removals: list[Removal] = []
        for cube, of_cube in by_cube.items():
            removals += retry_conflicts(
                lambda cube=cube, of_cube=of_cube: self._take_out(principal, undo, cube, of_cube),  # type: ignore[misc]
                "the cube changes faster than items can be deleted from it: try again",
            )
        for header in adapters:
            self._archive(principal, undo, header)
        self._system.forget_conversations(principal)  # their KV holds the words, too
        metrics.FORGOTTEN.inc(len(removals))
        seconds = self._system.config.remember.undo_seconds
        until = to_datetime(now_us()) + timedelta(seconds=seconds)
        return Outcome(removals, undo if removals or adapters else None, until, is_wide=wide)

    def _take_out(
        self, principal: Principal, undo: str, cube: str, losses: Sequence[Loss]
    ) -> list[Removal]:
        everyone = principal.in_persona(EVERY_PERSONA)
        current = self._system.vault.get(everyone, cube)
        by_id = {loss.item.id: loss for loss in losses}
        found = [by_id[item.id] for item in current.items if item.id in by_id]
        if not found:
            return []
        items: list[Item] = []
        for item in current.items:
            loss = by_id.get(item.id)
            if loss is None:
                items.append(item)
            elif loss.left is not None:
                items.append(item.model_copy(update={"id": None, "text": loss.left}))
        forgotten = Forgotten(undo, CubeId(cube), current.meta.version, current.meta.state)
        recording = ForgottenStore.recording(
            principal, forgotten, len(found), self._system.config.remember.undo_seconds
        )
        made = self._replace(everyone, current, items, undo, recording)
        return [
            Removal(cube, made.meta.version, loss.item, loss.lost, loss.left is None)
            for loss in found
        ]

    def _replace(
        self,
        principal: Principal,
        current: MemCube,
        items: list[Item],
        note: str,
        hook: InTransaction,
    ) -> MemCube:
        """A version with these items, also of a frozen or expired cube, whose state stays."""
        state = current.meta.state
        opened = None if state in WRITABLE else _OPENED[state]
        patch = CubePatch(
            payload=ExplicitPayload(content=items),
            state=opened,
            provenance=Provenance(origin=ORIGIN, note=note),
        )
        made = self._system.update(
            principal,
            current.meta.id,
            patch,
            if_match=current.meta.version,
            in_transaction=hook,
        )
        if state is State.FROZEN:
            self._system.update(principal, current.meta.id, CubePatch(state=state))
        return made

    def _archive(self, principal: Principal, undo: str, header: Header) -> None:
        if header.state not in (State.ACTIVATED, State.GENERATED, State.MERGED, State.FROZEN):
            return
        forgotten = Forgotten(undo, CubeId(header.id), header.version, header.state)
        self._system.update(
            principal.in_persona(EVERY_PERSONA),
            header.id,
            CubePatch(state=State.ARCHIVED, provenance=Provenance(origin=ORIGIN, note=undo)),
            in_transaction=ForgottenStore.recording(
                principal, forgotten, 1, self._system.config.remember.undo_seconds
            ),
        )

    def _restore(self, principal: Principal, forgotten: Forgotten) -> list[Removal]:
        everyone = principal.in_persona(EVERY_PERSONA)
        vault = self._system.vault
        current = vault.get(everyone, forgotten.cube)
        hook = ForgottenStore.undoing(principal, forgotten)
        if current.meta.kind is Kind.PARAMETRIC:
            patch = CubePatch(state=State.ACTIVATED)
            self._system.update(everyone, forgotten.cube, patch, in_transaction=hook)
            if forgotten.state in (State.FROZEN, State.MERGED):
                self._system.update(everyone, forgotten.cube, CubePatch(state=forgotten.state))
            return []
        before = vault.get(everyone, forgotten.cube, forgotten.version)
        following = next(
            each.id
            for each in vault.history(everyone, forgotten.cube)
            if each.parent == forgotten.version
        )
        after = vault.get(everyone, forgotten.cube, following)
        items, restored = put_back(before.items, after.items, current.items)
        made = self._replace(everyone, current, items, f"undo {forgotten.undo}", hook)
        return [
            Removal(forgotten.cube, made.meta.version, item, item.text, True) for item in restored
        ]


_OPENED = {State.FROZEN: State.ACTIVATED, State.EXPIRED: State.ARCHIVED}
"""State in which a cube of another state accepts a new version."""


def put_back(
    before: Sequence[Item], after: Sequence[Item], current: Sequence[Item]
) -> tuple[list[Item], list[Item]]:
    """Put what a version lost into the current one.

    Args:
        before: the version with the items.
        after: the next version, without them, or with a part of their text.
        current: the newest version; what else was changed since stays changed.
    Returns:
        The items of the cube, and those that came back. An item whose rest was forgotten by a later
        order stays away.
    """
    known = {item.id for item in before}
    result, restored = list(current), []
    position, place = 0, 0  # in `after`, and where the next item goes in `result`
    for item in before:
        at = _index(result, item.id)
        same = position < len(after) and after[position].id == item.id
        if same:
            position += 1
        if same or at is not None:
            place = at + 1 if at is not None else place
            continue
        is_cut = position < len(after) and after[position].id not in known
        if is_cut and (after[position].source, after[position].speaker) == (
            item.source,
            item.speaker,
        ):
            at = _index(result, after[position].id)
            position += 1
            if at is None:
                continue
            result[at] = item
            place = at + 1
        else:
            result.insert(place, item)
            place += 1
        restored.append(item)
    return result, restored


def _index(items: Sequence[Item], ident: str | None) -> int | None:
    return next((number for number, item in enumerate(items) if item.id == ident), None)


def _planned(losses: Sequence[Loss]) -> list[Removal]:
    return [Removal(each.cube, None, each.item, each.lost, each.left is None) for each in losses]
