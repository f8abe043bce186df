"""Index of one owner's items without their vectors: BM25, and cues such as speaker and date.

Each owner has an index built from the vault's rows, so token statistics are the owner's alone: no
score reveals anything about the memory of other owners.  When the owner's revision changes, the
index is joined again from its cubes; only the changed ones are read.

Cubes that an owner shares with a person are an index of their own (`Only`), with its own statistics, which
depends on these versions alone: the owner's other cubes can neither be counted, nor crowd a result out, nor
be timed.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from weakref import WeakValueDictionary

import numpy as np
from cachetools import LRUCache

from memos_vllm.plaintext.claims.validity import Past
from memos_vllm.plaintext.english.lexicon import is_question, names_time
from memos_vllm.plaintext.search.bm25 import Bm25, Integers, Postings, Scores, TokenHashes, rarity
from memos_vllm.plaintext.search.part_arrays import KIND, arrays_of, restored
from memos_vllm.plaintext.search.part_files import PartFiles
from memos_vllm.plaintext.tokens import tokenize
from memos_vllm.vault.items import CubeItems, IndexedItem, Owner, PartKey

REPLY_SPEAKERS = frozenset({"assistant", "tool"})
_NEAR = 2  # neighbours on each side of an item, for coverage
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Only = tuple[PartKey, ...] | None
"""Cubes of an owner that others may search; None: the whole index of the owner."""
LoadParts = Callable[[Owner, "frozenset[PartKey]", Only], "list[CubeItems]"]
"""Cubes of an owner in order; `items` is None for the parts that the caller has."""


class _OfText(NamedTuple):
    """What a part has of a text."""

    hashes: Integers
    is_question: float
    names_time: float


@dataclasses.dataclass(frozen=True)
class Part:
    """Immutable index of one version of a cube."""

    key: PartKey
    items: Sequence[IndexedItem]
    tokens: TokenHashes
    dates: Integers
    """(num_items, 3) year, month, day in UTC; zeros without a time."""
    is_question: Scores
    names_time: Scores

    @classmethod
    def of(cls, key: PartKey, items: Sequence[IndexedItem], before: Part | None = None) -> Part:
        """The part of these items.

        Args:
            before: of another version of the cube, from which texts that are in both are taken over: a turn that
                is appended to a long conversation costs its own text.
        """
        known = before.by_text() if before is not None else {}
        fresh = list(dict.fromkeys(item.text for item in items if item.text not in known))
        for text, hashes in zip(fresh, TokenHashes.of(fresh).rows(), strict=True):
            known[text] = _OfText(hashes, float(is_question(text)), float(names_time(text)))
        rows = [known[item.text] for item in items]
        return cls(
            key,
            items,
            TokenHashes.of_rows([row.hashes for row in rows]),
            np.array([_date(item.time_us) for item in items], dtype=np.int64).reshape(-1, 3),
            np.array([row.is_question for row in rows], dtype=np.float32),
            np.array([row.names_time for row in rows], dtype=np.float32),
        )

    def by_text(self) -> dict[str, _OfText]:
        """What is derived of each text."""
        rows = zip(self.tokens.rows(), self.is_question, self.names_time, strict=True)
        texts = (item.text for item in self.items)
        return {text: _OfText(*row) for text, row in zip(texts, rows, strict=True)}


@dataclasses.dataclass(frozen=True)
class Cues:
    """Properties of each item beside its tokens; all (num_items,)."""

    session: Integers
    cube: Integers
    speaker: Integers
    """Position in the index's `speakers`; -1: no speaker."""
    year: Integers
    month: Integers
    day: Integers
    """Of its time in UTC; 0: no time."""
    is_question: Scores
    names_time: Scores
    is_reply: Scores
    """1: by the assistant or a tool."""

    @classmethod
    def of(cls, parts: Sequence[Part], speakers: Sequence[str]) -> Cues:
        items = [item for part in parts for item in part.items]
        position_of = {speaker: position for position, speaker in enumerate(speakers)}
        dates = np.concatenate([np.zeros((0, 3), dtype=np.int64), *(part.dates for part in parts)])
        none = np.zeros(0, dtype=np.float32)
        return cls(
            session=_numbered(item.session or item.cube_id for item in items),
            cube=_numbered(item.cube_id for item in items),
            speaker=_integers(position_of.get(item.speaker or "", -1) for item in items),
            year=dates[:, 0],
            month=dates[:, 1],
            day=dates[:, 2],
            is_question=np.concatenate([none, *(part.is_question for part in parts)]),
            names_time=np.concatenate([none, *(part.names_time for part in parts)]),
            is_reply=np.array([item.speaker in REPLY_SPEAKERS for item in items], dtype=np.float32),
        )


@dataclasses.dataclass(frozen=True)
class OwnerIndex:
    """Search index of one owner."""

    revision: int
    parts: Mapping[PartKey, Part]
    items: list[IndexedItem]
    position: dict[str, int]
    speakers: tuple[str, ...]
    speaker_words: frozenset[str]
    cues: Cues
    bm25: Bm25
    only: Only = None

    @classmethod
    def build(cls, revision: int, parts: Sequence[Part], only: Only = None) -> OwnerIndex:
        items = [item for part in parts for item in part.items]
        speakers = tuple(dict.fromkeys(item.speaker for item in items if item.speaker))
        cues = Cues.of(parts, speakers)
        return cls(
            revision,
            {part.key: part for part in parts},
            items,
            {item.id: position for position, item in enumerate(items)},
            speakers,
            frozenset(word for speaker in speakers for word in tokenize(speaker)),
            cues,
            Bm25(
                TokenHashes.joined([part.tokens for part in parts]),
                np.r_[False, cues.cube[1:] == cues.cube[:-1]][: len(items)],
            ),
            only,
        )

    @functools.cached_property
    def past(self) -> Past:
        return Past(self.items)

    def elsewhere(self, persona: str | None) -> frozenset[str]:
        """Items of other personas."""
        return frozenset(
            item.id for item in self._of_personas if item.persona not in (None, persona)
        )

    @functools.cached_property
    def no_evidence(self) -> frozenset[str]:
        """Replies with a mark."""
        return frozenset(item.id for item in self.items if not item.is_evidence)

    @functools.cached_property
    def _of_personas(self) -> list[IndexedItem]:
        return [item for item in self.items if item.persona is not None]

    def lexical(self, words: Sequence[str]) -> dict[str, Scores]:
        """The lexical channels, by their names in fusion.CHANNELS: shares of the question's information.

        Args:
            words: tokens of the question, from `tokenize`.
        """
        postings = {word: self.bm25.postings(word) for word in dict.fromkeys(words)}
        asked = [postings[word] for word in words]
        # A name says who speaks, which the speaker boost reads: it counts only without other tokens.
        others = [found for word, found in postings.items() if word not in self.speaker_words]
        wanted = others or list(postings.values())
        ideal = np.float32(sum(self._rarity(found) for found in asked) or 1)
        return {
            "lexical_turn": self.bm25.turn_scores(asked) / ideal,
            "lexical_window": self.bm25.window_scores(asked) / ideal,
            "coverage": self._coverage(wanted, near=False),
            "near_coverage": self._coverage(wanted, near=True),
        }

    def _coverage(self, wanted: Sequence[Postings], near: bool) -> Scores:
        """IDF-weighted share of the question's tokens in an item.

        Args:
            near: count the item's two neighbours on each side, too: the answer is often in the turn before
                or behind the one with the question's words.
        """
        covered = np.zeros(len(self.items), dtype=np.float32)
        total = np.float32(0)
        for found in wanted:
            idf = self._rarity(found)
            covered[self._near(found.items) if near else found.items] += idf
            total += idf
        return covered / total if total else covered

    def _rarity(self, found: Postings) -> np.float32:
        return rarity(len(found.items), len(self.items))

    def _near(self, positions: Integers) -> Integers:
        """Positions of these items and their neighbours in the same cube."""
        cube = self.cues.cube
        found = []
        for offset in range(-_NEAR, _NEAR + 1):
            beside = positions + offset
            inside = (beside >= 0) & (beside < len(cube))
            beside, of = beside[inside], positions[inside]
            found.append(beside[cube[beside] == cube[of]])
        near: Integers = np.unique(np.concatenate(found))
        return near


class LexicalCache:
    """LRU cache of owner indexes; one thread builds an owner's index at a time."""

    def __init__(self, load: LoadParts, capacity: int, files: PartFiles | None = None) -> None:
        self._load = load
        self._files = files
        self._lock = threading.Lock()
        self._building: dict[tuple[Owner, Only], threading.Lock] = {}
        self._indexes: LRUCache[tuple[Owner, Only], OwnerIndex] = LRUCache(capacity)
        self._shared: WeakValueDictionary[PartKey, Part] = WeakValueDictionary()
        """Parts in indexes of shared cubes: many people have the same ones."""

    def forget(self, is_gone: Callable[[str, str], bool]) -> None:
        """Drop the indexes of persons, by tenant and person."""
        with self._lock:
            for key in [each for each in self._indexes if is_gone(each[0].tenant, each[0].person)]:
                self._indexes.pop(key, None)

    def get(self, owner: Owner, revision: int, only: Only = None) -> OwnerIndex:
        """The owner's index, at this revision or a later one; or that of some of its cubes."""
        key = owner, only
        with self._lock:
            found = self._indexes.get(key)
            if found is not None and found.revision >= revision:
                return found
            building = self._building.setdefault(key, threading.Lock())
        with building:
            with self._lock:
                found = self._indexes.get(key)
            if found is None or found.revision < revision:
                before = found.parts if found is not None else self._known(only)
                found = self._joined(owner, revision, before, only)
                with self._lock:
                    self._indexes[key] = found
                    if only is not None:
                        self._shared.update(found.parts)
        with self._lock:
            self._building.pop(key, None)
        return found

    def _known(self, only: Only) -> dict[PartKey, Part]:
        """Parts that another index has."""
        with self._lock:
            found = {key: self._shared.get(key) for key in only or ()}
        return {key: part for key, part in found.items() if part is not None}

    def _joined(
        self, owner: Owner, revision: int, parts_before: Mapping[PartKey, Part], only: Only
    ) -> OwnerIndex:
        parts: list[Part] = []
        derived: list[Part] = []
        versions = {(key.cube_id, key.persona): part for key, part in parts_before.items()}
        for cube in self._load(owner, frozenset(parts_before), only):
            part = parts_before[cube.key] if cube.items is None else None
            if part is None and cube.items:
                part = self._restored(owner, cube.key, cube.items)
            if part is None:
                before = versions.get((cube.key.cube_id, cube.key.persona))
                part = Part.of(cube.key, cube.items or (), before)
                derived.append(part)
            parts.append(part)
        if self._files is not None:
            self._files.save_soon(
                owner, [(part.key, KIND, arrays_of(part)) for part in derived if part.items]
            )
        return OwnerIndex.build(revision, [part for part in parts if part.items], only)

    def _restored(self, owner: Owner, key: PartKey, items: Sequence[IndexedItem]) -> Part | None:
        arrays = self._files.load(owner, key, KIND) if self._files is not None else None
        return restored(Part, arrays, {"key": key, "items": items}) if arrays else None


def _integers(values: Iterable[int]) -> Integers:
    return np.fromiter(values, dtype=np.int64)


def _numbered(values: Iterable[Hashable]) -> Integers:
    """Each different value as a number, in the order of first appearance."""
    numbers: dict[Hashable, int] = {}
    return _integers(numbers.setdefault(value, len(numbers)) for value in values)


def _date(time_us: int | None) -> tuple[int, int, int]:
    """(year, month, day) in UTC; zeros without a time."""
    if time_us is None:
        return 0, 0, 0
    moment = _EPOCH + timedelta(microseconds=time_us)
    return moment.year, moment.month, moment.day
