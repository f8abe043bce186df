"""Common form of the data sets, and the sampling of questions."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Literal, TypeVar

from memos_vllm.cube.model import ExplicitPayload, Item, ItemType, NewCube, NewMeta
from memos_vllm.errors import BadRequest
from memos_vllm.importers.source import storable

Scoring = Literal["f1", "f1_of_parts", "letter", "judge"]
Rubric = Literal["answer", "preference", "unanswerable"]
T = TypeVar("T")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclasses.dataclass(frozen=True, slots=True)
class Turn:
    id: str
    session: str
    speaker: str
    text: str
    time: datetime | None

    def item(self) -> Item:
        """Memory item of the turn."""
        return Item(
            type=ItemType.EPISODE,
            text=self.text,
            speaker=self.speaker,
            time=self.time,
            session=self.session,
            source=self.id,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    id: str
    kind: str
    """The data set's own category."""
    text: str
    scored_by: Scoring
    """Score without a judge; `judge`: only a judge can score it."""
    answer: str
    """Reference: an answer, the letter of an option, or the criterion of a judge."""
    options: tuple[str, ...] = ()
    rubric: Rubric = "answer"
    """Role of `answer` for a judge."""
    asked: str | None = None
    """Date of the question, as the data set writes it."""
    evidence: tuple[str, ...] = ()
    """Ids of turns that hold the answer."""


@dataclasses.dataclass(frozen=True, slots=True)
class History:
    """Turns of one person's memory, and questions about them."""

    person: str
    turns: tuple[Turn, ...]
    questions: tuple[Question, ...]

    def cubes(self) -> Iterator[NewCube]:
        """One cube per session."""
        sessions: dict[str, list[Item]] = {}
        for turn in self.turns:
            sessions.setdefault(turn.session, []).append(turn.item())
        for name, items in sessions.items():
            meta = NewMeta(tags=["benchmark", name[:90]])
            yield NewCube(meta=meta, payload=ExplicitPayload(content=items))

    def evidence(self, question: Question) -> list[Turn]:
        wanted = set(question.evidence)
        return [turn for turn in self.turns if turn.id in wanted]


@dataclasses.dataclass(frozen=True, slots=True)
class Dataset:
    name: str
    histories: tuple[History, ...]
    sha256: str
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Number of questions left out, by reason."""

    @property
    def questions(self) -> list[Question]:
        return [question for history in self.histories for question in history.questions]

    def shares(self) -> dict[str, float]:
        """Share of each kind among the questions."""
        kinds = Counter(question.kind for question in self.questions)
        return {kind: count / kinds.total() for kind, count in sorted(kinds.items())}

    def first(self, histories: int | None) -> Dataset:
        return dataclasses.replace(self, histories=self.histories[:histories])

    def without_judge(self) -> Dataset:
        """Questions that can be scored without a judge."""
        unscored = sum(question.scored_by == "judge" for question in self.questions)
        left_out = {**self.left_out, **({"only a judge can tell": unscored} if unscored else {})}
        histories = [
            _keep(h, {q.id for q in h.questions if q.scored_by != "judge"}) for h in self.histories
        ]
        return dataclasses.replace(
            self, histories=tuple(h for h in histories if h.questions), left_out=left_out
        )

    def sample(self, count: int, seed: int = 0) -> Dataset:
        """Sample about `count` questions, equally many of each kind; drops histories without any."""
        rng = random.Random(seed)
        by_kind: dict[str, list[tuple[int, str]]] = {}
        for position, history in enumerate(self.histories):
            for question in history.questions:
                by_kind.setdefault(question.kind, []).append((position, question.id))
        chosen: set[tuple[int, str]] = set()
        for place, kind in enumerate(sorted(by_kind, key=lambda kind: len(by_kind[kind]))):
            share = -(-(count - len(chosen)) // (len(by_kind) - place))
            entries = by_kind[kind]
            chosen.update(rng.sample(entries, min(share, len(entries))))
        histories = [
            _keep(history, {name for at, name in chosen if at == position})
            for position, history in enumerate(self.histories)
        ]
        return dataclasses.replace(self, histories=tuple(h for h in histories if h.questions))


def _keep(history: History, ids: set[str]) -> History:
    return dataclasses.replace(
        history, questions=tuple(q for q in history.questions if q.id in ids)
    )


def turn(id_: str, session: str, speaker: str, text: str, time: datetime | None) -> Turn | None:
    """A turn with storable text; None: the text is empty."""
    stored = storable(text)
    return Turn(id_, session, speaker, stored, time) if stored else None


def field(record: Any, name: str, kind: type[T] | tuple[type[T], ...], where: str) -> T:
    """Typed field of a record. Raises BadRequest with the place and the name of the field."""
    if not isinstance(record, Mapping):
        raise BadRequest(f"{where}: an object is needed, not {type(record).__name__}")
    if name not in record:
        raise BadRequest(
            f"{where}: there is no field `{name}`, only {', '.join(map(str, record)) or 'nothing'}"
        )
    value = record[name]
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        wanted = " or ".join(one.__name__ for one in kinds)
        raise BadRequest(f"{where}: `{name}` must be {wanted}, not {type(value).__name__}")
    return value
