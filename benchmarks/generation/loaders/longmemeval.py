"""LongMemEval (Wu et al., ICLR 2025): `longmemeval_{s,m,oracle}.json` of xiaowu0162/LongMemEval.

Each question has its own history.  Preferences and unanswerable questions (their `question_id` ends in
`_abs`) need a judge; the others have a reference answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.generation.dataset import Dataset, History, Question, Rubric, Turn, field, turn
from memos_vllm.errors import BadRequest
from memos_vllm.importers.files import content_sha256, read_json

UNANSWERABLE = "_abs"
PREFERENCE = "single-session-preference"
_WEEKDAY = re.compile(r"\s*\(\w+\)\s*")


def load(path: Path) -> Dataset:
    tree = read_json(path)
    if not isinstance(tree, list) or not tree:
        raise BadRequest(f"{path.name}: a LongMemEval file is a list of questions")
    histories = tuple(
        _history(raw, number, f"{path.name}, question {number}")
        for number, raw in enumerate(tree, start=1)
    )
    return Dataset("longmemeval", histories, content_sha256(path))


def _history(raw: Any, number: int, where: str) -> History:
    name = field(raw, "question_id", str, where)
    kind = field(raw, "question_type", str, where)
    rubric: Rubric = "answer"
    if name.endswith(UNANSWERABLE):
        kind, rubric = "abstention", "unanswerable"
    elif kind == PREFERENCE:
        rubric = "preference"
    turns = list(_turns(raw, where))
    question = Question(
        id=name,
        kind=kind,
        text=field(raw, "question", str, where),
        scored_by="f1" if rubric == "answer" else "judge",
        answer=str(field(raw, "answer", (str, int, float), where)),
        rubric=rubric,
        asked=field(raw, "question_date", str, where),
        evidence=tuple(one.id for one, has_answer in turns if has_answer),
    )
    return History(f"person {number}", tuple(one for one, _ in turns), (question,))


def _turns(raw: Any, where: str) -> Iterator[tuple[Turn, bool]]:
    """(turn, whether it holds the answer), sessions in the order of their dates."""
    names = field(raw, "haystack_session_ids", list, where)
    dates = field(raw, "haystack_dates", list, where)
    sessions = field(raw, "haystack_sessions", list, where)
    if not len(names) == len(dates) == len(sessions):
        raise BadRequest(
            f"{where}: `haystack_session_ids`, `haystack_dates` and `haystack_sessions` must be of "
            f"one length, not {len(names)}, {len(dates)} and {len(sessions)}"
        )
    moments = [parse_date(date, f"{where}, `haystack_dates`") for date in dates]
    for place in sorted(range(len(names)), key=lambda place: moments[place]):
        there = f"{where}, session {names[place]}"
        if not isinstance(sessions[place], list):
            raise BadRequest(f"{there}: `haystack_sessions` must hold lists of turns")
        for number, message in enumerate(sessions[place]):
            made = turn(
                f"{names[place]}#{number:04}",
                str(names[place]),
                field(message, "role", str, there),
                field(message, "content", str, there),
                moments[place] + timedelta(seconds=number),
            )
            if made is not None:
                yield made, bool(message.get("has_answer"))


def parse_date(text: Any, where: str) -> datetime:
    """Parse `2023/05/20 (Sat) 02:21`, which names no zone, as UTC. Raises BadRequest."""
    try:
        bare = _WEEKDAY.sub(" ", text).strip()
        return datetime.strptime(bare, "%Y/%m/%d %H:%M").replace(tzinfo=UTC)
    except (TypeError, ValueError) as error:
        raise BadRequest(f"{where}: no date like '2023/05/20 (Sat) 02:21': {text!r}") from error
