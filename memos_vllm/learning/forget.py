"""Forget, and undo it: text leaves a person's cubes by new versions, which can be taken back for a while.

    forget    new versions without the text; KV of the old ones and of the person's conversations is wiped
    undo      within `remember.undo_seconds`: the items come back as they were; KV stays wiped
    purge     after that time, by a job: the versions with the text and their files are deleted

Adapters hold memory as weights, which no order can cut.  Those of the person that learnt what is forgotten
(an order about all memory: all of them) are archived with it; the purge deletes them, and has them trained
again on what is left.  No order reaches a frozen cube.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from memos_vllm import metrics
from memos_vllm.cube.ids import CubeId, new_id, now_us, to_datetime
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
from memos_vllm.learning.learnt import Learnt
from memos_vllm.learning.optimistic import retry_conflicts
from memos_vllm.learning.put_back import put_back
from memos_vllm.plaintext.reader.forgetting import Order
from memos_vllm.plaintext.reader.turns import session_name
from memos_vllm.vault.forgotten import Forgotten, ForgottenStore
from memos_vllm.vault.listing import every
from memos_vllm.vault.quotas import admitted
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
    held: int = 0
    """Matching items, and adapters, that a legal hold keeps."""


class Forgetting:
    def __init__(self, system: MemorySystem, origin: str = ORIGIN) -> None:
        """
        Args:
            origin: in the provenance of new versions.
        """
        self._system = system
        self._origin = origin
        self._learnt = Learnt(system, origin)

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

        Stored replies of `/v1/responses` lose the text, too, or, by an order to forget everything, go; for good.

        Args:
            confirmed: also where more than `MOST_FORGOTTEN` items match.
            until: what was said later stays.
        """
        memory = Memory(principal.person, self._located(principal))
        wide = any(order.is_wide for order in orders)
        if wide:
            losses = everything(memory, until)
        else:
            losses = Chooser(memory, self._system.embedder).losses(orders, until)
            if len(losses) > MOST_FORGOTTEN and not (confirmed or dry_run):
                return Outcome(_planned(losses), too_many=True)
        adapters = self._adapters(principal) if wide else []
        if wide and not dry_run:
            self._system.forgotten.forget_all_replies(principal, until)
        return self._carry_out(principal, losses, adapters, dry_run=dry_run, wide=wide)

    def items(
        self, principal: Principal, located: Sequence[tuple[str, Item]], dry_run: bool
    ) -> Outcome:
        """Remove whole items."""
        losses = [Loss(cube, item, item.text, None) for cube, item in located]
        return self._carry_out(principal, losses, (), dry_run=dry_run, wide=False)

    def requests(self, principal: Principal, request_ids: Collection[str]) -> Outcome:
        """Remove what the turns of these requests left: their items, and claims read from them alone."""
        self.await_pending(principal)
        self._system.turns.drop(principal, lambda body: body.get("request_id") in request_ids)
        left = _left_by(self._located(principal), set(request_ids))
        return self.items(principal, left, dry_run=False)

    def session(
        self, principal: Principal, session: str, *, dry_run: bool, for_good: bool
    ) -> Outcome:
        """Remove what was said in a session, and claims read from it alone, of every persona.

        Args:
            for_good: at once, with older versions and stored replies; it cannot be undone.
        """
        self.await_pending(principal)
        if not dry_run:
            self._system.turns.drop(
                principal, lambda body: session_name(body["session"], body) == session
            )
        stored = self._located(principal)
        claims = [one for one in stored if one[1].claim and one[1].claim.sources]
        verbatim = [one for one in stored if not (one[1].claim and one[1].claim.sources)]
        said = [one for one in verbatim if one[1].session == session]
        sources = {item.source for _, item in said if item.source}
        # By whole sources: those of an import have nothing but their beginning in common with a session.
        read = [
            (cube, item)
            for cube, item in claims
            if item.claim and sources.issuperset(item.claim.sources)
        ]
        found = {item.id: (cube, item) for cube, item in (*said, *read)}
        outcome = self.items(principal, list(found.values()), dry_run)
        if dry_run:
            return outcome
        if for_good:
            requests = {source.rpartition(":")[0] for source in sources}
            self._system.forgotten.forget_replies(principal, session, requests)
            self._end_undo(principal, outcome.undo)
            outcome = dataclasses.replace(outcome, undo=None, undo_until=None)
        self._system.forgotten.session_deleted(principal, len(outcome.removals), outcome.undo)
        return outcome

    def rest(self, principal: Principal, text: str, orders: Iterable[Order]) -> str:
        """What else a message with orders says, without what they name."""
        if not text or any(order.is_wide for order in orders):
            return ""
        memory = Memory(principal.person, self._located(principal))
        return Chooser(memory, self._system.embedder).cut(text, orders)

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
        if cube.meta.kind is Kind.PARAMETRIC:
            self._learnt.end(owner, forgotten, cube.meta)
        elif cube.meta.kind is Kind.EXPLICIT and not cube.items:
            self._system.delete(owner, forgotten.cube, if_match=cube.meta.version)

    def await_pending(self, principal: Principal) -> None:
        """Wait, 2 seconds at most, until what the person said before has become memory."""
        deadline = time.monotonic() + _PENDING_SECONDS
        while self._system.turns.waiting_of(principal) and time.monotonic() < deadline:
            time.sleep(0.02)

    # -- inside -----------------------------------------------------------------------------------

    def _end_undo(self, principal: Principal, undo: str | None) -> None:
        """Purge what was forgotten under an id now."""
        for each in self._system.forgotten.undoable(principal, undo) if undo else ():
            self._system.forgotten.hasten(each)
            self.purge(each.subject)

    def _located(self, principal: Principal) -> list[tuple[CubeId, Item]]:
        """(cube, item) of all the person's own memory, in one query."""
        return self._system.knowledge.own_items(principal)

    def _adapters(self, principal: Principal) -> list[Header]:
        """The person's adapters, oldest first, in every state and persona."""
        everyone = principal.in_persona(EVERY_PERSONA)
        own = every(self._system.views, everyone, CubeFilter(person=principal.person))
        return [header for header in own if header.kind is Kind.PARAMETRIC][::-1]

    def _carry_out(
        self,
        principal: Principal,
        losses: Sequence[Loss],
        adapters: Sequence[Header],
        *,
        dry_run: bool,
        wide: bool,
    ) -> Outcome:
        frozen = self._frozen(principal)
        held = sum(loss.cube in frozen for loss in losses) + sum(h.id in frozen for h in adapters)
        losses = [loss for loss in losses if loss.cube not in frozen]
        adapters = [header for header in adapters if header.id not in frozen]
        if dry_run or not (losses or adapters):
            return Outcome(_planned(losses), is_wide=wide, held=held)
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
        lost = {cube: {loss.item.id for loss in of_cube} for cube, of_cube in by_cube.items()}
        learnt = self._learnt.from_items(principal, lost)
        adapters = list({header.id: header for header in (*adapters, *learnt)}.values())
        for header in adapters:
            self._learnt.archive(principal, undo, header)
        if removals and not wide:
            self._system.forgotten.cut_replies(principal, [loss.lost for loss in losses])
        self._system.forget_conversations(principal)  # their KV holds the words, too
        metrics.FORGOTTEN.inc(len(removals))
        seconds = self._system.config.remember.undo_seconds
        until = to_datetime(now_us()) + timedelta(seconds=seconds)
        done = undo if removals or adapters else None
        return Outcome(removals, done, until, is_wide=wide, held=held)

    def _frozen(self, principal: Principal) -> frozenset[str]:
        """The person's cubes under a legal hold, which no order reaches."""
        where = CubeFilter(person=principal.person, state=State.FROZEN)
        everyone = principal.in_persona(EVERY_PERSONA)
        return frozenset(header.id for header in every(self._system.views, everyone, where))

    def _take_out(
        self, principal: Principal, undo: str, cube: str, losses: Sequence[Loss]
    ) -> list[Removal]:
        everyone = principal.in_persona(EVERY_PERSONA)
        try:
            current = self._system.vault.get(everyone, cube)
        except NotFound:
            return []  # deleted meanwhile
        except DamagedPayload as error:
            log.error("nothing is forgotten in a damaged cube: %s", error)
            return []
        by_id = {loss.item.id: loss for loss in losses}
        found = [by_id[item.id] for item in current.items if item.id in by_id]
        if not found or current.meta.state is State.FROZEN:
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

    @admitted()  # it makes room, though its new version is stored beside the old one
    def _replace(
        self,
        principal: Principal,
        current: MemCube,
        items: list[Item],
        note: str,
        hook: InTransaction,
    ) -> MemCube:
        """A version with these items, also of an expired cube. Raises Unprocessable: it is frozen."""
        opened = State.ARCHIVED if current.meta.state is State.EXPIRED else None
        patch = CubePatch(
            payload=ExplicitPayload(content=items),
            state=opened,
            provenance=Provenance(origin=self._origin, note=note),
        )
        return self._system.update(
            principal,
            current.meta.id,
            patch,
            if_match=current.meta.version,
            in_transaction=hook,
        )

    @admitted()
    def _restore(self, principal: Principal, forgotten: Forgotten) -> list[Removal]:
        everyone = principal.in_persona(EVERY_PERSONA)
        vault = self._system.vault
        current = vault.get(everyone, forgotten.cube)
        if current.meta.kind is Kind.PARAMETRIC:
            self._learnt.restore(principal, forgotten)
            return []
        hook = ForgottenStore.undoing(principal, forgotten)
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


def _left_by(
    located: Iterable[tuple[CubeId, Item]], requests: set[str]
) -> list[tuple[CubeId, Item]]:
    """(cube, item) of what these requests alone left."""
    return [(cube, item) for cube, item in located if _sources(item) and _sources(item) <= requests]


def _sources(item: Item) -> set[str]:
    """Ids of the requests that an item was said in, or a claim read from."""
    named = item.claim.sources if item.claim is not None and item.claim.sources else [item.source]
    return {source.rpartition(":")[0] for source in named if source}


def _planned(losses: Sequence[Loss]) -> list[Removal]:
    return [Removal(each.cube, None, each.item, each.lost, each.left is None) for each in losses]
