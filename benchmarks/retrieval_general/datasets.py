"""Data sets of retrieval in one form: stores of items, and questions with the items that answer them.

| data set | store | items | evidence |
|---|---|---|---|
| LoCoMo | a conversation of two people | turns | turns |
| LongMemEval, own sessions | the sessions of one question | turns of user and assistant | turns |
| LongMemEval, pool | all sessions, one after another | the same | turns |
| PrefEval | one preference, then conversations about other things | turns | the preference |
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.locomo_retrieval import dataset as locomo
from benchmarks.locomo_retrieval.dataset import Turn, by_session

_OF_TOPIC = 20
"""Preferences of each topic of PrefEval: each is a store of its own."""
PERSON, ASSISTANT = "alice", "assistant"
FILES = {
    "LoCoMo": "locomo10.json",
    "LongMemEval": "longmemeval_dev.json.gz",
    "PrefEval": "prefeval_dev.json.gz",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    text: str
    category: str
    evidence: frozenset[str]
    """Ids of turns; at least one."""


@dataclasses.dataclass(frozen=True, slots=True)
class Store:
    """The memory of one person, and questions to it."""

    name: str
    part: str
    """Name of the row in the result, such as `LongMemEval, pool`."""
    family: str
    """Data set: what is fitted on it is not reported on it."""
    turns: tuple[Turn, ...]
    questions: tuple[Question, ...]

    @property
    def sessions(self) -> dict[str, list[Turn]]:
        return by_session(self.turns)


def load(folder: Path) -> tuple[list[Store], dict[str, str]]:
    """(stores, digest of each file that exists in the folder)"""
    stores: list[Store] = []
    digests = {}
    readers = {"LoCoMo": _locomo, "LongMemEval": _longmemeval, "PrefEval": _prefeval}
    for family, name in FILES.items():
        path = folder / name
        if path.is_file():
            stores.extend(readers[family](path))
            digests[family] = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return stores, digests


def _locomo(path: Path) -> Iterator[Store]:
    for conversation in locomo.load(path).conversations:
        yield Store(
            name=conversation.name,
            part="LoCoMo",
            family="LoCoMo",
            turns=conversation.turns,
            questions=tuple(
                Question(q.text, locomo.CATEGORIES[q.category], frozenset(q.evidence))
                for q in conversation.questions
            ),
        )


def _longmemeval(path: Path) -> Iterator[Store]:
    sessions: dict[str, list[Turn]] = {}
    questions = []
    for entry in _read(path):
        names, dates = entry["haystack_session_ids"], entry["haystack_dates"]
        evidence = set()
        for name, date, turns in zip(names, dates, entry["haystack_sessions"], strict=True):
            sessions.setdefault(name, list(_session(name, date, turns)))
            evidence |= {f"{name}:{n}" for n, turn in enumerate(turns) if turn.get("has_answer")}
        if not evidence or entry["question_id"].endswith("_abs"):
            continue  # a question without an answer in the sessions
        question = Question(entry["question"], entry["question_type"], frozenset(evidence))
        questions.append(question)
        own = sorted({name: sessions[name] for name in names}.values(), key=_first_time)
        yield Store(
            name=entry["question_id"],
            part="LongMemEval, own sessions",
            family="LongMemEval",
            turns=tuple(turn for session in own for turn in session),
            questions=(question,),
        )
    pool = sorted(sessions.values(), key=_first_time)
    yield Store(
        name="pool",
        part="LongMemEval, pool",
        family="LongMemEval",
        turns=tuple(turn for session in pool for turn in session),
        questions=tuple(questions),
    )


def _session(name: str, date: str, turns: Sequence[dict[str, Any]]) -> Iterator[Turn]:
    moment = datetime.strptime(date, "%Y/%m/%d (%a) %H:%M").replace(tzinfo=UTC)
    for turn in _conversation(name, turns):
        yield dataclasses.replace(turn, time=moment)


def _first_time(turns: Sequence[Turn]) -> datetime:
    return min((turn.time for turn in turns if turn.time), default=datetime.min.replace(tzinfo=UTC))


def _prefeval(path: Path) -> Iterator[Store]:
    data = _read(path)
    others = tuple(
        turn
        for conversation in data["distractor_conversations"]
        for turn in _conversation(conversation["conversation_id"], conversation["conversation"])
    )
    for topic, rows in data["explicit"].items():
        for number in range(0, len(rows), max(1, len(rows) // _OF_TOPIC)):
            row, name = rows[number], f"{topic}:{number}"
            turn = Turn(name, name, PERSON, row["preference"], None)
            question = Question(row["question"], topic, frozenset({name}))
            yield Store(name, "PrefEval", "PrefEval", (turn, *others), (question,))


def _conversation(name: str, turns: Sequence[dict[str, Any]]) -> Iterator[Turn]:
    for number, turn in enumerate(turns):
        if text := turn["content"].strip():
            speaker = PERSON if turn["role"] == "user" else ASSISTANT
            yield Turn(f"{name}:{number}", name, speaker, text, None)


def _read(path: Path) -> Any:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return json.load(file)
