"""Feedback of a person on their own memory: forget, correct, prefer.

    forget    delete the sentences that say it from the person's cubes, turns of conversations included;
              each cube gets a new version, and KV of the old one is wiped; it can be undone for a while
    correct   the new statement supersedes the known one on the same subject
    prefer    store a preference, which every later prompt gets

Orders to forget are read in ten languages, other sentences by English rules; item ids work in any.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from memos_vllm import zones
from memos_vllm.cube.ids import new_id, now_us, to_datetime
from memos_vllm.cube.model import Claim, Item, ItemType
from memos_vllm.errors import BadRequest, Forbidden, NotFound, Unprocessable
from memos_vllm.governance.principal import EVERY_PERSONA, Principal, Role
from memos_vllm.learning.consolidate import Consolidator
from memos_vllm.learning.forget import MOST_FORGOTTEN, ORIGIN, Forgetting, Outcome
from memos_vllm.plaintext.claims.validity import holds
from memos_vllm.plaintext.english.instructions import is_instruction
from memos_vllm.plaintext.reader.by_rules import read_claims
from memos_vllm.plaintext.reader.forgetting import Order, content_of, read_orders
from memos_vllm.plaintext.reader.matching import names_anything

if TYPE_CHECKING:
    from memos_vllm.system import MemorySystem

Action = Literal["forget", "correct", "prefer", "undo"]


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """One change to one item."""

    action: Action
    item: str
    text: str
    cube: str | None
    """None: nothing changed (a dry run, or known already)."""
    version: str | None
    is_whole: bool = True
    """False: only the sentences of `text` were removed from the item."""


@dataclasses.dataclass(frozen=True, slots=True)
class Done:
    """Changes, and how to take them back."""

    changes: list[Change]
    undo: str | None = None
    undo_until: datetime | None = None
    held: int = 0
    """Matching items that a legal hold keeps."""


class Feedback:
    def __init__(self, system: MemorySystem, zone: str | None = None, origin: str = ORIGIN) -> None:
        """Feedback in one memory system.

        Args:
            zone: IANA name of the person's time zone; None: `reader.timezone`.
            origin: in the provenance of new versions.
        """
        self._origin = origin
        self._system = system
        self._zone = zone or system.config.reader.timezone
        self._consolidator = Consolidator(system)
        self._forgetting = Forgetting(system, origin)

    def say(
        self, principal: Principal, text: str, dry_run: bool = False, confirmed: bool = False
    ) -> Done:
        """Carry out a sentence: its orders to forget, else the statements in it.

        Raises:
            Unprocessable: it contains no feedback, or would delete too many items.
            Forbidden: the principal names no person, or may not write.
        """
        _check(principal)
        found = read_orders(text)
        if found is not None:
            return self._forget(principal, found.orders, dry_run, confirmed)
        claims = read_claims([self._said(principal, text)], principal.person)
        if not claims:
            raise Unprocessable(
                "nothing to forget, correct or prefer was found in it: say `Forget that …`, state the fact "
                "in the first person, or name `items` and an `action`",
                param="text",
            )
        return Done(self._take(principal, claims, dry_run))

    def forget(
        self, principal: Principal, what: str, dry_run: bool = False, confirmed: bool = False
    ) -> Done:
        """Delete the sentences of the person's own memory that say it.

        Args:
            what: the content ("I live in Paris", "my sister"), or an order to forget it.
            confirmed: also where more than `forget.MOST_FORGOTTEN` items match.
        Raises:
            Unprocessable: too many items match, or it names nothing.
        """
        _check(principal)
        return self._forget(principal, [content_of(what)], dry_run, confirmed)

    def forget_items(self, principal: Principal, ids: Sequence[str], dry_run: bool = False) -> Done:
        """Delete items. Raises NotFound: an item does not exist or is not the person's own."""
        _check(principal)
        outcome = self._forgetting.items(principal, self.located(principal, ids), dry_run)
        return _done("forget", outcome)

    def forget_session(
        self, principal: Principal, session: str, *, dry_run: bool = False, for_good: bool = False
    ) -> Done:
        """Delete what was said in a session. Arguments as for `Forgetting.session`."""
        _check(principal)
        return _done(
            "forget",
            self._forgetting.session(principal, session, dry_run=dry_run, for_good=for_good),
        )

    def undo(self, principal: Principal, undo: str) -> Done:
        """Take back what was forgotten. Raises NotFound: unknown, done already, or too late."""
        _check(principal)
        removals = self._forgetting.undo(principal, undo)
        return _done("undo", Outcome(removals))

    def correct(self, principal: Principal, item_id: str, text: str, dry_run: bool) -> Done:
        """End an item now, and store the text in its place. Raises NotFound, Unprocessable."""
        _check(principal)
        ((cube, old),) = self.located(principal, [item_id])
        owner = self._system.knowledge.owner(cube)
        principal = principal.in_persona(owner.persona if owner is not None else None)
        claims = read_claims([self._said(principal, text)], principal.person)
        if old.claim is None and not claims:
            raise Unprocessable(
                "the item is a quotation and is not corrected: forget it, or state the fact in the "
                "first person",
                param="text",
            )
        claims = claims or [self._in_place_of(principal, old, text)]
        return Done(self._take(principal, claims, dry_run))

    def prefer(self, principal: Principal, text: str, dry_run: bool) -> Done:
        """Store a text as a preference, which every later prompt gets."""
        _check(principal)
        said = self._said(principal, text)
        claims = read_claims([said], principal.person)
        if not any(item.type is ItemType.PREFERENCE for item in claims):
            claim = Claim(subject=principal.person, sources=[said.source or ""])
            claims = [
                said.model_copy(
                    update={
                        "type": ItemType.PREFERENCE,
                        "text": f"{principal.person} asks: {text}",
                        "claim": claim,
                    }
                )
            ]
        return Done(self._take(principal, claims, dry_run))

    def located(self, principal: Principal, ids: Sequence[str]) -> list[tuple[str, Item]]:
        """(cube, item) of items by id. Raises NotFound: an item does not exist or is not the person's own."""
        everything = principal.in_persona(EVERY_PERSONA)
        found = self._system.views.recall(everything, list(ids))
        own = {
            ref: recalled for ref, recalled in found.items() if recalled.person == principal.person
        }
        missing = [ref for ref in ids if ref not in own]
        if missing:
            raise NotFound(f"there is no item {missing[0]!r} of yours here", param="items")
        return [(own[ref].cube_id, own[ref].item) for ref in dict.fromkeys(ids)]

    # -- inside -----------------------------------------------------------------------------------

    def _take(self, principal: Principal, claims: Sequence[Item], dry_run: bool) -> list[Change]:
        if dry_run:
            return [Change(_action(item), "", item.text, None, None) for item in claims]
        self._consolidator.take(principal, claims, origin=self._origin)
        at = to_datetime(now_us())
        found = {each.item.text: each for each in self._system.knowledge.claims(principal)}
        changes = []
        for item in claims:
            each = found.get(item.text)
            is_open = each is not None and holds(each.item, at)
            cube = self._system.vault.get(principal, each.cube).meta if each else None
            version = cube.version if cube is not None else None
            ident = (each.item.id or "") if each is not None and is_open else ""
            changes.append(
                Change(_action(item), ident, item.text, cube.id if cube else None, version)
            )
        return changes

    def _forget(
        self, principal: Principal, orders: Sequence[Order], dry_run: bool, confirmed: bool
    ) -> Done:
        if not all(order.is_wide or names_anything(order, principal.person) for order in orders):
            raise Unprocessable("it names nothing to forget", param="text")
        self._forgetting.await_pending(principal)
        outcome = self._forgetting.orders(principal, orders, dry_run=dry_run, confirmed=confirmed)
        if outcome.too_many:
            raise Unprocessable(
                f"{len(outcome.removals)} items mention it; more than {MOST_FORGOTTEN} are deleted only with "
                "`confirm`: look at them with `dry_run`, be more specific, or name `items`",
                param="text",
            )
        return _done("forget", outcome)

    @staticmethod
    def _in_place_of(principal: Principal, old: Item, text: str) -> Item:
        assert old.claim is not None
        moment = to_datetime(now_us())
        source = new_id("feedback")
        claim = old.claim.model_copy(
            update={
                "value": text[:500],
                "begins": moment,
                "ends": None,
                "sources": [source],
                "seen": 1,
                "last_seen": moment,
                "attribute": old.claim.attribute or f"corrected:{old.id}"[:500],
            }
        )
        return old.model_copy(
            update={"id": None, "text": text, "time": moment, "source": source, "claim": claim}
        )

    def _said(self, principal: Principal, text: str) -> Item:
        if not text.strip():
            raise BadRequest("`text` is empty", param="text")
        if is_instruction(text):
            raise Unprocessable(
                "it would change the permissions of the assistant, or store a secret in memory",
                param="text",
            )
        return Item(
            type=ItemType.EPISODE,
            text=text,
            speaker=principal.person,
            time=zones.local(now_us(), self._zone),
            source=new_id("feedback"),
        )


def _done(action: Action, outcome: Outcome) -> Done:
    changes = [
        Change(
            action,
            each.item.id or "",
            each.item.text if each.is_whole else each.lost,
            each.cube,
            each.version,
            each.is_whole,
        )
        for each in outcome.removals
    ]
    return Done(changes, outcome.undo, outcome.undo_until, outcome.held)


def _action(item: Item) -> Action:
    return "prefer" if item.type is ItemType.PREFERENCE else "correct"


def _check(principal: Principal) -> None:
    principal.require(Role.WRITER)
    if not principal.person:
        raise Forbidden("name the person whose memory it is: `X-Memos-User`", param="user")
