"""Extract the people, places and things that an item names: the vault's graph. English rules.

An item is an edge between its names, with its time; a claim is an edge between its subject and its
value, with the time of its validity.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Literal

from memos_vllm.cube.model import Item

EntityKind = Literal["person", "place", "thing"]
LONGEST = 200
_MOST = 32
"""Names of one item; a long passage may have more."""

_WORD = r"[A-Z][\w'\u2019-]*"
_NAME = re.compile(rf"\b{_WORD}(?: {_WORD})*")
# The first word of a sentence is a name only as the subject of a verb.
_SUBJECT = re.compile(
    r"(?:['\u2019]s\b)|\s(?:is|was|are|were|has|had|will|would|can|and|or|said|told|went|got|came"
    r"|\w+ed|\w+[^s\W]s)\b"
)
_BEGINS = re.compile(r"(?:^|[.!?:\"\u201c\n]\s*|[-*]\s)$")
_PLACE_BEFORE = re.compile(r"\b(?:in|near|around|across|through|visit(?:ed|ing)?)\s$")
_PERSON_BEFORE = re.compile(
    r"\b(?:with|met|called|named|friend|wife|husband|partner|brother|sister|mother|father|mom|mum|dad|son"
    r"|daughter|cousin|uncle|aunt|niece|nephew|boss|colleague|neighbou?r|mr|mrs|ms|dr),?\s$",
    re.IGNORECASE,
)
_PERSON_BEHIND = re.compile(
    r"(?:['\u2019]s)?\s(?:said|says|told|thinks|likes|loves|wants|asked|works|lives|moved)\b"
)
_NO_NAME = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be been but by can could did do does for from had has have he her here hers him his how i "
        "if in is it its just let like may me my no not now of on or our please she should so some such than thank "
        "thanks that the their them then there these they this those to us was we were what when where which who whom "
        "whose why will with would yes you your hello hi hey oh ok okay well also all any both each every everyone "
        "everything nothing nobody someone something anything after before because while during until since one two "  # prose: a word list
        "monday tuesday wednesday thursday friday saturday sunday january february march april may june july august "
        "september october november december today tomorrow yesterday "
        "don t s m ve re ll d isn aren wasn weren doesn didn haven hasn wouldn",
    )
)
_NO_PERSON = ("assistant", "tool")  # speakers in chats
_PLACES = ("home", "origin", "hometown", "birthplace")
_THINGS = ("employer",)


@dataclasses.dataclass(frozen=True, slots=True)
class Entity:
    name: str
    """As written."""
    kind: EntityKind

    @property
    def key(self) -> str:
        """Normalised name: equal for different spellings."""
        return entity_key(self.name)


def entity_key(name: str) -> str:
    """Casefold, collapse white space, strip a final 's."""
    folded = " ".join(name.casefold().replace("\u2019", "'").split())
    return folded.removesuffix("'s")[:LONGEST]


def entities_of(item: Item) -> list[Entity]:
    """Each entity once: of the claim, then in the order of the text; the speaker last."""
    found: dict[str, Entity] = {}
    for entity in (*_of_claim(item), *_in_text(item.text), *_speaker(item)):
        known = found.get(entity.key)
        if known is None or known.kind == "thing":
            found[entity.key] = entity
    return list(found.values())[:_MOST]


def _of_claim(item: Item) -> Iterator[Entity]:
    claim = item.claim
    if claim is None:
        return
    attribute = (claim.attribute or "").split(":")[0]
    if claim.subject:
        yield Entity(claim.subject[:LONGEST], "person")
    kind: EntityKind = "thing"
    if attribute in _PLACES:
        kind = "place"
    elif attribute == "name" or attribute.endswith(".name"):
        kind = "person"
    # A company with the name of a town is a company.
    names = [claim.value] if claim.value and kind != "thing" else claim.entities
    for name in names:
        yield Entity(name[:LONGEST], kind)


def _speaker(item: Item) -> Iterator[Entity]:
    if item.speaker and item.speaker not in _NO_PERSON:
        yield Entity(item.speaker[:LONGEST], "person")


def _in_text(text: str) -> Iterator[Entity]:
    for match in _NAME.finditer(text):
        name, start = match.group(), match.start()
        words = name.split()
        while words and words[0].casefold().replace("\u2019", "'").split("'")[0] in _NO_NAME:
            start += len(words.pop(0)) + 1
        if not words:
            continue
        name = re.sub(r"['\u2019]s$", "", " ".join(words))
        before, behind = text[max(0, start - 24) : start], text[start + len(name) :]
        if _BEGINS.search(before) and len(words) == 1 and not _SUBJECT.match(behind):
            continue
        if len(name) < 2:
            continue
        kind: EntityKind = "thing"
        if _PERSON_BEFORE.search(before) or _PERSON_BEHIND.match(behind):
            kind = "person"
        elif _PLACE_BEFORE.search(before):
            kind = "place"
        yield Entity(name[:LONGEST], kind)
