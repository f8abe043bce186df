"""Lexical search: BM25 (bm25s), one index in memory for each owner, built from the vault's rows.

An index of its own means that word statistics are the owner's alone: no score tells anything about
anybody else's memory.  An index is rebuilt when its owner's revision has moved on.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from datetime import UTC, datetime, timedelta

import bm25s
import numpy as np
import numpy.typing as npt
import Stemmer
from bm25s.stopwords import STOPWORDS_EN_PLUS

from memos_vllm.operator.claims import Past
from memos_vllm.operator.english import BASE_FORMS, is_question, names_time
from memos_vllm.vault.items import IndexedItem, Owner

Scores = npt.NDArray[np.float32]
"""(num_items,), in the order of the owner's items."""
Integers = npt.NDArray[np.int64]
"""(num_items,), likewise."""

_WORD = re.compile(r"\w+")
_STOPWORDS = frozenset(STOPWORDS_EN_PLUS)  # with question words and pronouns
_NEAR = 2  # items before and behind that count as the surroundings of one
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_local = threading.local()


def tokenize(text: str) -> list[str]:
    """Lower-case words without English stop words, irregular forms undone, stemmed (Snowball)."""
    if not hasattr(_local, "stemmer"):
        _local.stemmer = Stemmer.Stemmer("english")  # a stemmer is not safe across threads
    words = [
        BASE_FORMS.get(word, word)
        for word in _WORD.findall(text.lower())
        if word not in _STOPWORDS and BASE_FORMS.get(word) not in _STOPWORDS
    ]
    stems: list[str] = _local.stemmer.stemWords(words)
    return stems


@dataclasses.dataclass(frozen=True)
class Cues:
    """What is known of each item beside its words."""

    session: Integers
    cube: Integers
    speaker: Integers
    """Position in the index's `speakers`; -1: nobody."""
    year: Integers
    month: Integers
    day: Integers
    """Of its time in UTC; 0: it has none."""
    is_question: Scores
    names_time: Scores

    @classmethod
    def of(cls, items: Sequence[IndexedItem], speakers: Sequence[str]) -> Cues:
        place = {speaker: position for position, speaker in enumerate(speakers)}
        times = [_date(item.time_us) for item in items]
        return cls(
            session=_numbered(item.session or item.cube_id for item in items),
            cube=_numbered(item.cube_id for item in items),
            speaker=_integers(place.get(item.speaker or "", -1) for item in items),
            year=_integers(year for year, _, _ in times),
            month=_integers(month for _, month, _ in times),
            day=_integers(day for _, _, day in times),
            is_question=np.array([is_question(item.turn) for item in items], dtype=np.float32),
            names_time=np.array([names_time(item.turn) for item in items], dtype=np.float32),
        )


@dataclasses.dataclass(frozen=True)
class OwnerIndex:
    """Everything that one owner's items are searched with."""

    revision: int
    items: list[IndexedItem]
    position: dict[str, int]
    speakers: tuple[str, ...]
    speaker_words: frozenset[str]
    cues: Cues
    turns: bm25s.BM25 | None
    windows: bm25s.BM25 | None

    @classmethod
    def build(cls, revision: int, items: list[IndexedItem]) -> OwnerIndex:
        speakers = tuple(dict.fromkeys(item.speaker for item in items if item.speaker))
        return cls(
            revision,
            items,
            {item.id: position for position, item in enumerate(items)},
            speakers,
            frozenset(word for speaker in speakers for word in tokenize(speaker)),
            Cues.of(items, speakers),
            _bm25([item.turn for item in items]),
            _bm25([item.window for item in items]),
        )

    @functools.cached_property
    def past(self) -> Past:
        return Past(self.items)

    def elsewhere(self, persona: str | None) -> frozenset[str]:
        """Items that have no place in this persona."""
        return frozenset(
            item.id for item in self._of_personas if item.persona not in (None, persona)
        )

    @functools.cached_property
    def _of_personas(self) -> list[IndexedItem]:
        return [item for item in self.items if item.persona is not None]

    def turn_scores(self, words: Sequence[str]) -> Scores:
        return self._scores(self.turns, words)

    def window_scores(self, words: Sequence[str]) -> Scores:
        return self._scores(self.windows, words)

    def coverage(self, words: Sequence[str]) -> Scores:
        """The share of the words, by their IDF, that stand in an item or at most two away from it.

        An answer often stands beside the words that were asked for, in the turn before or behind.
        Speakers' names are left out, where anything else was asked: they are everywhere.
        """
        asked = dict.fromkeys(words)
        wanted = [word for word in asked if word not in self.speaker_words] or list(asked)
        covered = np.zeros(len(self.items), dtype=np.float32)
        total = 0.0
        for word in wanted:
            holders = self._holders(word)
            idf = float(np.log1p((len(self.items) - len(holders) + 0.5) / (len(holders) + 0.5)))
            covered[self._near(holders)] += idf
            total += idf
        return covered / np.float32(total) if total else covered

    def session_coverage(self, words: Sequence[str]) -> Scores:
        """The share of the words, by how few sessions hold them, that stand somewhere in an item's session.

        What was talked about in a session is spread over its turns; each names a part of it.
        """
        asked = dict.fromkeys(words)
        wanted = [word for word in asked if word not in self.speaker_words] or list(asked)
        session = self.cues.session
        count = int(session.max(initial=-1)) + 1
        covered = np.zeros(count, dtype=np.float32)
        total = 0.0
        for word in wanted:
            holders = np.unique(session[self._holders(word)])
            idf = float(np.log1p((count - len(holders) + 0.5) / (len(holders) + 0.5)))
            covered[holders] += idf
            total += idf
        found = covered / np.float32(total) if total else covered
        return found[session]

    def _holders(self, word: str) -> Integers:
        """Positions of the items that hold a word."""
        if self.turns is None or word not in self.turns.vocab_dict:
            return np.zeros(0, dtype=np.int64)
        column, matrix = self.turns.vocab_dict[word], self.turns.scores
        start, end = matrix["indptr"][column], matrix["indptr"][column + 1]
        holders: Integers = matrix["indices"][start:end].astype(np.int64)
        return holders

    def _near(self, positions: Integers) -> Integers:
        """Positions of these items and of those around them in the same cube."""
        cube = self.cues.cube
        found = []
        for offset in range(-_NEAR, _NEAR + 1):
            beside = positions + offset
            inside = (beside >= 0) & (beside < len(cube))
            beside, of = beside[inside], positions[inside]
            found.append(beside[cube[beside] == cube[of]])
        near: Integers = np.unique(np.concatenate(found))
        return near

    def _scores(self, index: bm25s.BM25 | None, words: Sequence[str]) -> Scores:
        known = [word for word in words if index is not None and word in index.vocab_dict]
        if index is None or not known:
            return np.zeros(len(self.items), dtype=np.float32)
        scores: Scores = index.get_scores(known)
        return scores


class LexicalCache:
    def __init__(self, load: Callable[[Owner], list[IndexedItem]], capacity: int) -> None:
        self._load = load
        self._capacity = capacity
        self._lock = threading.Lock()
        self._building: dict[Owner, threading.Lock] = {}
        self._indexes: OrderedDict[Owner, OwnerIndex] = OrderedDict()

    def get(self, owner: Owner, revision: int) -> OwnerIndex:
        """The owner's index, at this revision or a later one."""
        with self._lock:
            found = self._indexes.get(owner)
            if found is not None and found.revision >= revision:
                self._indexes.move_to_end(owner)
                return found
            building = self._building.setdefault(owner, threading.Lock())
        with building:
            with self._lock:
                found = self._indexes.get(owner)
            if found is None or found.revision < revision:
                found = OwnerIndex.build(revision, self._load(owner))
                with self._lock:
                    self._indexes[owner] = found
                    while len(self._indexes) > self._capacity:
                        self._indexes.popitem(last=False)
        with self._lock:
            self._building.pop(owner, None)
        return found


def _bm25(texts: list[str]) -> bm25s.BM25 | None:
    tokens = [tokenize(text) for text in texts]
    if not any(tokens):
        return None
    index = bm25s.BM25(method="lucene")
    index.index(tokens, show_progress=False)
    return index


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
