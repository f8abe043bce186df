"""LoCoMo (Maharana et al., ACL 2024): `locomo10.json` of snap-research/locomo, CC BY-NC 4.0.

Categories 1 to 4, like the MemOS paper; category 5 asks about things that were never said.  Scores follow
the data set's own evaluation: category 1 part by part (parts are separated by commas), category 3 up to the
first semicolon.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from benchmarks.generation.dataset import Dataset, History, Question, Turn, field, turn
from benchmarks.locomo_retrieval.dataset import CATEGORIES, parse_evidence
from memos_vllm.importers.files import content_sha256
from memos_vllm.importers.locomo import Conversation, read_conversations

MULTI_HOP, OPEN_DOMAIN = 1, 3


def load(path: Path) -> Dataset:
    left_out: Counter[str] = Counter()
    histories = tuple(
        _history(path, conversation, left_out) for conversation in read_conversations(path)
    )
    return Dataset("locomo", histories, content_sha256(path), dict(left_out))


def _history(path: Path, conversation: Conversation, left_out: Counter[str]) -> History:
    turns = _turns(conversation)
    existing = {one.id: one for one in turns}
    questions = []
    for number, raw in enumerate(conversation.questions, start=1):
        where = f"{path.name}, {conversation.sample_id}, question {number}"
        category = field(raw, "category", int, where)
        if category not in CATEGORIES:
            left_out[f"category {category}"] += 1
            continue
        questions.append(_question(raw, f"{number}", category, existing, where))
    return History(conversation.sample_id, turns, tuple(questions))


def _turns(conversation: Conversation) -> tuple[Turn, ...]:
    """Turns with times: the data set dates sessions only, so turns are a second apart."""
    made = (
        turn(
            each.dia_id,
            f"session_{session.number}",
            each.speaker,
            each.shown,
            session.started + timedelta(seconds=position),
        )
        for session in conversation.sessions
        for position, each in enumerate(session.turns)
    )
    return tuple(one for one in made if one is not None)


def _question(
    raw: Mapping[str, Any], name: str, category: int, existing: Mapping[str, Turn], where: str
) -> Question:
    answer = str(field(raw, "answer", (str, int), where))
    if category == OPEN_DOMAIN:
        answer = answer.split(";")[0].strip()
    evidence, _ = parse_evidence(field(raw, "evidence", list, where), existing)
    return Question(
        id=name,
        kind=CATEGORIES[category],
        text=field(raw, "question", str, where),
        scored_by="f1_of_parts" if category == MULTI_HOP else "f1",
        answer=answer,
        evidence=tuple(evidence),
    )
