"""Choose what an order to forget removes: sentences of items, replies that repeat them, and claims.

a clause      that says what the order names, of the same subject (`plaintext.reader.matching`)
behind it     a sentence that only goes on about it: "It gives me hives."
a reply       its sentences that repeat what was removed from the turn; all of it with a whole turn
a claim       that says it, or that was read from the removed sentences
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime

import numpy as np

from memos_vllm.cube.model import ASSISTANT, Item, ItemType
from memos_vllm.errors import EmbedderUnavailable
from memos_vllm.plaintext.embed.embedder import Embedder
from memos_vllm.plaintext.reader import about, matching, wording
from memos_vllm.plaintext.reader.about import SELF, Clause, Teller
from memos_vllm.plaintext.reader.forgetting import Order
from memos_vllm.plaintext.reader.matching import Fit, Target
from memos_vllm.plaintext.reader.sentences import Sentence, split, without

log = logging.getLogger(__name__)
_MOST_EMBEDDED = 256
"""Clauses of one order that are compared by meaning; further ones by their words alone."""
_REPEATS = 0.45
"""Least lift at which a sentence of a reply repeats a removed one in other words."""
_LEFT_OF_REPLY = 0.5
"""A reply of which less is left goes as a whole."""
_READ_FROM = 0.5
"""Share of a claim's words in a removed sentence from which it was read there."""
_GOES_ON = re.compile(
    r"(?:and |but |so |\u0438 )?(?:it|that|this|es|das|dies|\u00e7a|cela|c'est|eso|esto|\u00e8|questo|isso|isto|\u044d\u0442\u043e|\u043e\u043d\u043e)\b"
    r"|\u5b83|\u8fd9|\u9019|\u90a3|\u305d\u308c|\u3053\u308c|\uadf8\uac83|\uc774\uac83",
    re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True, slots=True)
class Loss:
    """What one item loses."""

    cube: str
    item: Item
    lost: str
    """The removed text."""
    left: str | None
    """The text that stays; None: the item goes."""


class Memory:
    """A person's memory as text, read with the names that stand for people."""

    def __init__(self, person: str, located: Sequence[tuple[str, Item]]) -> None:
        """
        Args:
            located: (cube, item) of all its items, the oldest cube first.
        """
        self.person = person
        self.located = located
        self._own = _own_names(person, (item for _, item in self.located))
        self._kin = _kin_names(item for _, item in self.located)
        self.teller = Teller(SELF, self._own, self._kin)

    def teller_of(self, item: Item) -> Teller:
        said_by = (item.speaker or "").casefold()
        if not said_by or said_by == self.person.casefold() or said_by in self._own:
            return self.teller
        return dataclasses.replace(self.teller, role=ASSISTANT if said_by == ASSISTANT else said_by)

    def text_of(self, item: Item) -> str:
        """The item's text; a claim's in the first person: "alice's sister" → "my sister"."""
        if item.claim is None or not self.person:
            return item.text
        name = re.escape(self.person)
        text = re.sub(rf"(?<!\w){name}(?:'s|\u2019s)", "my", item.text)
        return re.sub(rf"(?<!\w){name}(?!\w)", "I", text)


class _Read:
    """An item, read into clauses."""

    def __init__(self, memory: Memory, cube: str, item: Item) -> None:
        self.cube, self.item = cube, item
        self.sentences = split(memory.text_of(item))
        self._teller = memory.teller_of(item)
        self._language = about.language_of(item.text)

    @functools.cached_property
    def clauses(self) -> list[list[Clause]]:
        read: list[list[Clause]] = []
        before: Clause | None = None
        for sentence in self.sentences:
            read.append([])
            for text in sentence.clauses:
                clause = about.read(text, self._teller, self._language, before)
                read[-1].append(clause)
                if clause.subjects - {SELF}:
                    before = clause
                elif clause.subjects:
                    before = None
        return read

    def whole(self, number: int) -> Clause:
        """A sentence as one clause."""
        return about.read(self.sentences[number].text, self._teller, self._language)


class Chooser:
    """Chooses for one order after another in one person's memory."""

    def __init__(self, memory: Memory, embedder: Embedder) -> None:
        self._memory, self._embedder = memory, embedder

    def losses(self, orders: Iterable[Order], until: datetime | None = None) -> list[Loss]:
        """What the orders remove, each item once, in the order of memory.

        Args:
            until: time of the order; what was said later stays.
        """
        located = [each for each in self._memory.located if _is_before(each[1], until)]
        gone: dict[int, set[tuple[int, int]]] = {}
        read: dict[int, _Read] = {}
        for order in orders:
            target = matching.target_of(order, self._memory.teller)
            hint = matching.hint_of(target, self._memory.teller)
            for number, (cube, item) in enumerate(located):
                if item.type is not ItemType.TOOL_TRACE and hint.search(self._memory.text_of(item)):
                    read.setdefault(number, _Read(self._memory, cube, item))
            for number, clauses in self._matching(target, read).items():
                gone.setdefault(number, set()).update(clauses)
        self._answers(located, read, gone)
        self._claims(located, read, gone)
        return [
            _loss(read.get(number) or _Read(self._memory, *located[number]), gone[number])
            for number in sorted(gone)
        ]

    def cut(self, text: str, orders: Iterable[Order]) -> str:
        """A text of the person without what the orders name."""
        item = Item(type=ItemType.EPISODE, text=text, speaker=self._memory.person or None)
        read = _Read(self._memory, "", item)
        gone: set[tuple[int, int]] = set()
        for order in orders:
            target = matching.target_of(order, self._memory.teller)
            gone |= self._matching(target, {0: read}).get(0, set())
        return without(text, read.sentences, lambda *place: place in gone)

    def _matching(
        self, target: Target, read: Mapping[int, _Read]
    ) -> dict[int, set[tuple[int, int]]]:
        """(sentence, clause) of each item that says what the order names."""
        fits: list[tuple[int, tuple[tuple[int, int], ...], str, Fit]] = []
        for number, each in read.items():
            for place, clauses in enumerate(each.clauses):
                found = [matching.fit(target, clause) for clause in clauses]
                fits += [
                    (number, ((place, part),), clauses[part].text, fit)
                    for part, fit in enumerate(found)
                    if fit is not Fit.NONE
                ]
                if len(clauses) > 1 and not any(found):
                    fit = matching.fit(target, each.whole(place))
                    every = tuple((place, part) for part in range(len(clauses)))
                    if fit is not Fit.NONE:
                        fits.append((number, every, each.sentences[place].text, fit))
        unsure = [text for _, _, text, fit in fits if fit is not Fit.WHOLE][:_MOST_EMBEDDED]
        lifts = self._lifts(target.order.what, unsure)
        chosen: dict[int, set[tuple[int, int]]] = {}
        for number, places, text, fit in fits:
            if matching.matches(fit, lifts.get(text)):
                chosen.setdefault(number, set()).update(places)
        for number, places_of in chosen.items():
            _go_on(read[number], places_of)
        return chosen

    def _lifts(self, asked: str, texts: Sequence[str]) -> dict[str, float]:
        """Cosine of each text to the asked one, as a share of its way from the background to 1."""
        if not texts:
            return {}
        distinct = list(dict.fromkeys(texts))
        try:
            vectors = self._embedder.embed([asked, *matching.BACKGROUND, *distinct])
        except EmbedderUnavailable as error:
            log.warning("what to forget is found by words alone, the embedder failed: %s", error)
            return {}
        cosines = vectors[1:] @ vectors[0]
        background = float(np.mean(cosines[: len(matching.BACKGROUND)]))
        lifts = (cosines[len(matching.BACKGROUND) :] - background) / max(1e-6, 1 - background)
        return dict(zip(distinct, map(float, lifts), strict=True))

    def _answers(
        self,
        located: Sequence[tuple[str, Item]],
        read: dict[int, _Read],
        gone: dict[int, set[tuple[int, int]]],
    ) -> None:
        """Add what answers to removed words: sentences of replies, results of tools."""
        sources = _by_source(located)
        for source in {located[number][1].source or "" for number in gone}:
            base, is_user = source.removesuffix(":user"), source.endswith(":user")
            if not is_user:
                continue
            parts = sources.get(source, [])  # none: the turn was edited since it was read
            removed = [
                clause
                for number in parts
                if number in gone
                for clause in _removed(read[number], gone[number])
            ]
            whole = bool(parts) and all(
                number in gone and _is_all(read[number], gone[number]) for number in parts
            )
            for other, numbers in sources.items():
                if not other.startswith(f"{base}:") or other == source:
                    continue
                for number in numbers:
                    each = read.setdefault(number, _Read(self._memory, *located[number]))
                    is_reply = located[number][1].speaker == ASSISTANT
                    self._answer(each, removed, gone.setdefault(number, set()), is_reply and whole)
                    if not gone[number]:
                        del gone[number]

    def _answer(
        self, each: _Read, removed: Sequence[Clause], gone: set[tuple[int, int]], whole: bool
    ) -> None:
        if each.item.claim is not None:
            return
        every = {(place, part) for place, of in enumerate(each.clauses) for part in range(len(of))}
        if whole:
            gone |= every
            return
        texts = [sentence.text for sentence in each.sentences]
        likely = self._repeating(removed, texts) if each.item.speaker == ASSISTANT else set()
        for place, clauses in enumerate(each.clauses):
            if place in likely or any(
                matching.overlap(one, other) > 0 for one in removed for other in clauses
            ):
                gone |= {(place, part) for part in range(len(clauses))}
        if not gone:
            return
        _go_on(each, gone)
        left = sum(len(s.text) for place, s in enumerate(each.sentences) if (place, 0) not in gone)
        if each.item.speaker != ASSISTANT or left < _LEFT_OF_REPLY * len(each.item.text):
            gone |= every

    def _repeating(self, removed: Sequence[Clause], texts: Sequence[str]) -> set[int]:
        """Numbers of the sentences that are near a removed one in meaning."""
        near: set[int] = set()
        for clause in removed[:8]:
            lifts = self._lifts(clause.text, texts[:_MOST_EMBEDDED])
            near |= {n for n, text in enumerate(texts) if lifts.get(text, 0.0) >= _REPEATS}
        return near

    def _claims(
        self,
        located: Sequence[tuple[str, Item]],
        read: dict[int, _Read],
        gone: dict[int, set[tuple[int, int]]],
    ) -> None:
        """Add claims that were read from removed sentences."""
        sources = _by_source(located)
        touched = {located[n][1].source or "" for n in gone if located[n][1].claim is None}
        for number, (cube, item) in enumerate(located):
            if item.claim is None or number in gone or not touched & set(item.claim.sources):
                continue
            each = _Read(self._memory, cube, item)
            claim = each.whole(0) if each.sentences else None
            if claim is None:
                continue
            removed, kept = [], []
            for source in touched & set(item.claim.sources):
                for part in sources.get(source, ()):
                    lost = gone.get(part, set())
                    of_part = read.get(part) or _Read(self._memory, *located[part])
                    removed += _removed(of_part, lost)
                    kept += _removed(of_part, _every(of_part) - lost)
            share = max((matching.overlap(claim, one) for one in removed), default=0.0)
            other = max((matching.overlap(claim, one) for one in kept), default=0.0)
            is_orphan = not kept and set(item.claim.sources) <= touched
            if is_orphan or (share >= _READ_FROM and share > other):
                read[number] = each
                gone[number] = _every(each)


def everything(memory: Memory, until: datetime | None = None) -> list[Loss]:
    """All items as losses, for an order about all memory."""
    return [
        Loss(cube, item, item.text, None)
        for cube, item in memory.located
        if _is_before(item, until)
    ]


def _go_on(read: _Read, gone: set[tuple[int, int]]) -> None:
    """Add the sentences behind removed ones that only go on about them."""
    for place in range(1, len(read.sentences)):
        clauses = read.clauses[place]
        last = (place - 1, len(read.clauses[place - 1]) - 1)
        people = clauses[0].people - {SELF}
        if last in gone and not people and _GOES_ON.match(read.sentences[place].text):
            gone.add((place, 0))


def _loss(read: _Read, gone: set[tuple[int, int]]) -> Loss:
    if read.item.claim is not None or _is_all(read, gone):
        return Loss(read.cube, read.item, read.item.text, None)
    left = without(read.item.text, read.sentences, lambda *place: place in gone)
    lost = " ".join(_lost(sentence, place, gone) for place, sentence in enumerate(read.sentences))
    return Loss(read.cube, read.item, " ".join(lost.split()), left or None)


def _lost(sentence: Sentence, place: int, gone: set[tuple[int, int]]) -> str:
    parts = [text for part, text in enumerate(sentence.clauses) if (place, part) in gone]
    return sentence.text if len(parts) == len(sentence.clauses) else " ".join(parts)


def _removed(read: _Read, gone: set[tuple[int, int]]) -> list[Clause]:
    return [read.clauses[place][part] for place, part in sorted(gone)]


def _every(read: _Read) -> set[tuple[int, int]]:
    return {(place, part) for place, of in enumerate(read.clauses) for part in range(len(of))}


def _is_all(read: _Read, gone: set[tuple[int, int]]) -> bool:
    return gone >= _every(read)


def _by_source(located: Sequence[tuple[str, Item]]) -> dict[str, list[int]]:
    """Numbers of the items of each source, claims left out."""
    found: dict[str, list[int]] = {}
    for number, (_, item) in enumerate(located):
        if item.source and item.claim is None:
            found.setdefault(item.source, []).append(number)
    return found


def _is_before(item: Item, until: datetime | None) -> bool:
    return until is None or item.time is None or not item.time.tzinfo or item.time <= until


def _own_names(person: str, items: Iterable[Item]) -> frozenset[str]:
    names = {person.casefold()} if person else set()
    for item in items:
        if item.claim is not None and item.claim.attribute == "name" and item.claim.value:
            names |= set(item.claim.value.casefold().split())
    return frozenset(names)


def _kin_names(items: Iterable[Item]) -> dict[str, str]:
    """`sister.name` = Anna: `anna` → `sister`."""
    found: dict[str, str] = {}
    for relation, name in _named(items):
        kind = next((k for each in relation if (k := wording.relation_of(each)) is not None), None)
        if kind is not None:
            found[name.casefold()] = kind
    return found


def _named(items: Iterable[Item]) -> Iterator[tuple[list[str], str]]:
    for item in items:
        claim = item.claim
        if claim is not None and claim.value and (claim.attribute or "").endswith(".name"):
            whose = (claim.attribute or "").rpartition(".")[0]
            yield re.split(r"[-_ .]", whose)[::-1], claim.value.split()[0]
