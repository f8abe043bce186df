"""Feedback of a person on their own memory: forget, correct, prefer.

    forget    delete the items that say it from the person's cubes, turns of conversations included;
              each cube gets a new version, and KV of the old one is wiped
    correct   the new statement supersedes the known one on the same subject
    prefer    store a preference, which every later prompt gets

Sentences are read by rules, in English; with item ids it works in any language.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from memos_vllm.cube.ids import new_id, now_us, to_datetime
from memos_vllm.cube.model import Claim, CubePatch, ExplicitPayload, Item, ItemType, Provenance
from memos_vllm.errors import BadRequest, Forbidden, NotFound, Unprocessable
from memos_vllm.governance.principal import EVERY_PERSONA, Principal, Role
from memos_vllm.learning.consolidate import Consolidator
from memos_vllm.learning.optimistic import retry_conflicts
from memos_vllm.plaintext.claims.validity import holds
from memos_vllm.plaintext.english.instructions import is_instruction
from memos_vllm.plaintext.reader.by_rules import read_claims
from memos_vllm.plaintext.tokens import tokenize
from memos_vllm.vault.items import IndexedItem

if TYPE_CHECKING:
    from memos_vllm.system import MemorySystem

Action = Literal["forget", "correct", "prefer"]
MOST_FORGOTTEN = 50
_LONGEST_ORDER = 300
_WHAT = (
    r"(?:everything\s+(?:about\s+|you\s+know\s+about\s+)?|(?:the\s+fact\s+)?that\s+|about\s+"
    r"|what\s+i\s+said\s+about\s+)?(?P<what>.+?)"
)
_PLEASE = r"(?:please,?\s+)?(?:(?:can|could)\s+you\s+(?:please\s+)?)?"
_FORMS = tuple(
    re.compile(form, re.IGNORECASE)
    for form in (
        # "Delete the table" is about something else: only what is deleted from memory is meant.
        rf"{_PLEASE}(?:forget|delete|erase|remove)\s+{_WHAT}\s+from\s+(?:your\s+)?memory[.!?]*",
        rf"{_PLEASE}(?:forget|don't\s+remember|stop\s+remembering)\s+{_WHAT}[.!?]*",
    )
)
_NOT_MEMORY = re.compile(
    r"(?:it|this|that|to|the\s+(?:above|previous|file|line|row|column)|what\s+i\s+said)\b.*",
    re.IGNORECASE | re.DOTALL,
)


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """One change to one item."""

    action: Action
    item: str
    text: str
    cube: str | None
    """None: nothing changed (a dry run, or known already)."""
    version: str | None


def wants_forgotten(text: str) -> str | None:
    """Content that a message asks to forget ("Forget that I live in Paris"), or None."""
    said = " ".join(text.split())
    if len(said) > _LONGEST_ORDER:
        return None
    match = next(filter(None, (form.fullmatch(said) for form in _FORMS)), None)
    if match is None or _NOT_MEMORY.fullmatch(match["what"]):
        return None
    what: str = match["what"]
    return what


class Feedback:
    def __init__(self, system: MemorySystem) -> None:
        self._system = system
        self._consolidator = Consolidator(system)

    def say(self, principal: Principal, text: str, dry_run: bool = False) -> list[Change]:
        """Carry out a sentence.

        Raises:
            Unprocessable: it contains no feedback, or would delete too many items.
            Forbidden: the principal names no person, or may not write.
        """
        _check(principal)
        what = wants_forgotten(text)
        if what is not None:
            return self.forget(principal, what, dry_run)
        claims = read_claims([self._said(principal, text)], principal.person)
        if not claims:
            raise Unprocessable(
                "nothing to forget, correct or prefer was found in it: say `Forget that …`, state the fact "
                "in the first person, or name `items` and an `action`",
                param="text",
            )
        return self._take(principal, claims, dry_run)

    def forget(self, principal: Principal, what: str, dry_run: bool = False) -> list[Change]:
        """Delete all of the person's own items that say it. Raises Unprocessable: too many match."""
        _check(principal)
        words = set(tokenize(what)) - set(tokenize(principal.person))
        if not words:
            raise Unprocessable("it names nothing to forget", param="text")
        ways = [words, *_in_other_words(principal, what, words)]
        own = list(self._own(principal))
        said = {
            item.id: item.source or "" for item in own if _matches(ways, set(tokenize(item.turn)))
        }
        # A reply repeats the content in other words: it is deleted with the turn that it answers.
        replies = {
            source.removesuffix(":user") + ":reply"
            for source in said.values()
            if source.endswith(":user")
        }
        ids = [item.id for item in own if item.id in said or item.source in replies]
        if len(ids) > MOST_FORGOTTEN:
            raise Unprocessable(
                f"{len(ids)} items mention it; at most {MOST_FORGOTTEN} are deleted at once: be more "
                "specific, name `items`, or delete the cubes",
                param="text",
            )
        return self.forget_items(principal, ids, dry_run)

    def forget_items(
        self, principal: Principal, ids: Sequence[str], dry_run: bool = False
    ) -> list[Change]:
        """Delete items. Raises NotFound: an item does not exist or is not the person's own."""
        _check(principal)
        cubes: dict[str, set[str]] = {}
        for cube, item in self._located(principal, ids):
            assert item.id is not None
            cubes.setdefault(cube, set()).add(item.id)
        changes = []
        for cube, of_cube in cubes.items():
            changes += self._take_out(principal, cube, of_cube, dry_run)
        if changes and not dry_run:
            self._system.forget_conversations(principal)  # their KV holds the words, too
        return changes

    def correct(self, principal: Principal, item_id: str, text: str, dry_run: bool) -> list[Change]:
        """End an item now, and store the text in its place. Raises NotFound, Unprocessable."""
        _check(principal)
        ((cube, old),) = self._located(principal, [item_id])
        owner = self._system.knowledge.owner(cube)
        principal = principal.in_persona(owner.persona if owner is not None else None)
        claims = read_claims([self._said(principal, text)], principal.person)
        if old.claim is None and not claims:
            raise Unprocessable(
                "the item is a quotation and is not corrected: forget it, or state the fact in the "
                "first person",
                param="text",
            )
        return self._take(principal, claims or [self._in_place_of(principal, old, text)], dry_run)

    def prefer(self, principal: Principal, text: str, dry_run: bool) -> list[Change]:
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
        return self._take(principal, claims, dry_run)

    # -- inside -----------------------------------------------------------------------------------

    def _take(self, principal: Principal, claims: Sequence[Item], dry_run: bool) -> list[Change]:
        if dry_run:
            return [Change(_action(item), "", item.text, None, None) for item in claims]
        self._consolidator.take(principal, claims, origin="feedback")
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

    def _take_out(
        self, principal: Principal, cube: str, ids: set[str], dry_run: bool
    ) -> list[Change]:
        def take_out() -> list[Change]:
            current = self._system.vault.get(principal, cube)
            found = [item for item in current.items if item.id in ids]
            version = None
            if found and not dry_run:
                left = [item for item in current.items if item.id not in ids]
                patch = CubePatch(
                    payload=ExplicitPayload(content=left), provenance=Provenance(origin="feedback")
                )
                made = self._system.update(principal, cube, patch, if_match=current.meta.version)
                version = made.meta.version
            return [Change("forget", item.id or "", item.text, cube, version) for item in found]

        message = "the cube changes faster than items can be deleted from it: try again"
        return retry_conflicts(take_out, message, attempts=5)

    def _own(self, principal: Principal) -> Iterator[IndexedItem]:
        """The person's own items."""
        for state in self._system.views.owners(principal):
            if state.owner.person == principal.person:
                for cube in self._system.views.owner_cubes(state.owner):
                    yield from cube.items or ()

    def _located(self, principal: Principal, ids: Sequence[str]) -> list[tuple[str, Item]]:
        everything = principal.in_persona(EVERY_PERSONA)
        found = self._system.views.recall(everything, list(ids))
        own = {
            ref: recalled for ref, recalled in found.items() if recalled.person == principal.person
        }
        missing = [ref for ref in ids if ref not in own]
        if missing:
            raise NotFound(f"there is no item {missing[0]!r} of yours here", param="items")
        return [(own[ref].cube_id, own[ref].item) for ref in dict.fromkeys(ids)]

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

    @staticmethod
    def _said(principal: Principal, text: str) -> Item:
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
            time=to_datetime(now_us()),
            source=new_id("feedback"),
        )


def _in_other_words(principal: Principal, what: str, words: set[str]) -> Iterator[set[str]]:
    """Sets of words that paraphrase a content to forget: of "my cat is called Miso" also Miso and cat,
    and Miso and name."""
    order = Item(type=ItemType.EPISODE, text=what, speaker=principal.person, source="order")
    for item in read_claims([order], principal.person):
        assert item.claim is not None
        value, attribute = (
            set(tokenize(text or "")) for text in (item.claim.value, item.claim.attribute)
        )
        if not value or not attribute - value:
            continue
        yield value | attribute
        if attribute & words - value:
            yield value | (attribute & words)


def _matches(ways: Sequence[set[str]], words: set[str]) -> bool:
    return any(way <= words for way in ways)


def _action(item: Item) -> Action:
    return "prefer" if item.type is ItemType.PREFERENCE else "correct"


def _check(principal: Principal) -> None:
    principal.require(Role.WRITER)
    if not principal.person:
        raise Forbidden("name the person whose memory it is: `X-Memos-User`", param="user")
