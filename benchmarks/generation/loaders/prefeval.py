"""PrefEval (Zhao et al., ICLR 2025): a topic's file of `benchmark_dataset/` of amazon-science/PrefEval.

Four forms, distinguished by their fields: an explicit preference (`explicit_preference/`), one implied by a
conversation (`implicit_preference/choice-based/`, `…/persona-driven/`), and one with four answers of which
the first follows it (`mcq_options/`), the only one that needs no judge.  The authors insert unrelated turns
between preference and question (`filtered_inter_turns.json`).
"""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.generation.dataset import LETTERS, Dataset, History, Question, Turn, field, turn
from memos_vllm.errors import BadRequest
from memos_vllm.importers.files import content_sha256, read_json

CHOICE = (
    ("user", "query"),
    ("assistant", "assistant_options"),
    ("user", "user_selection"),
    ("assistant", "assistant_acknowledgment"),
)


def load(path: Path) -> Dataset:
    tree = read_json(path)
    if not isinstance(tree, list) or not tree:
        raise BadRequest(f"{path.name}: a PrefEval file is a list of preferences with questions")
    histories = tuple(
        _history(raw, number, f"{path.name}, entry {number}")
        for number, raw in enumerate(tree, start=1)
    )
    return Dataset("prefeval", histories, content_sha256(path))


def with_inter_turns(dataset: Dataset, path: Path, count: int) -> Dataset:
    """Append the first `count` exchanges of the file to each history."""
    tree = read_json(path)
    if not isinstance(tree, list):
        raise BadRequest(f"{path.name}: a list of objects with a `conversation` is needed")
    messages = (
        (field(message, "role", str, where), field(message, "content", str, where))
        for number, raw in enumerate(tree, start=1)
        for where in [f"{path.name}, entry {number}"]
        for message in field(raw, "conversation", list, where)
    )
    between = tuple(_turns(list(itertools.islice(messages, 2 * count)), "inter-turns"))
    return dataclasses.replace(
        dataset,
        histories=tuple(
            dataclasses.replace(history, turns=history.turns + between)
            for history in dataset.histories
        ),
    )


def _history(raw: Any, number: int, where: str) -> History:
    preference = field(raw, "preference", str, where)
    form, messages = "explicit", [("user", preference)]
    if "conversation" in raw:
        form, messages = _conversation(field(raw, "conversation", dict, where), where)
    turns = tuple(_turns(messages))
    question = Question(
        id=str(number),
        kind=form,
        text=field(raw, "question", str, where),
        scored_by="judge",
        answer=preference,
        rubric="preference",
        evidence=tuple(one.id for one in turns),
    )
    if "classification_task_options" in raw:
        question = _with_options(question, raw, where)
    return History(f"person {number}", turns, (question,))


def _conversation(raw: Mapping[str, Any], where: str) -> tuple[str, list[tuple[str, str]]]:
    if "query" in raw:
        there = f"{where}, `conversation`"
        return "choice-based", [(role, field(raw, name, str, there)) for role, name in CHOICE]
    messages = [
        (role, field(raw[key], role, str, f"{where}, `conversation`, `{key}`"))
        for key in raw
        for role in ("user", "assistant")
    ]
    return "persona-driven", messages


def _turns(messages: list[tuple[str, str]], session: str = "conversation") -> Iterator[Turn]:
    for number, (role, text) in enumerate(messages):
        if (made := turn(f"{session}#{number:04}", session, role, text, None)) is not None:
            yield made


def _with_options(question: Question, raw: Any, where: str) -> Question:
    """Shuffle the options, of which the first is right, by the question's id."""
    options = field(raw, "classification_task_options", list, where)
    if len(options) < 2 or not all(isinstance(option, str) for option in options):
        raise BadRequest(f"{where}: `classification_task_options` must be two strings or more")
    order = list(range(len(options)))
    random.Random(question.id).shuffle(order)
    return Question(
        id=question.id,
        kind=question.kind,
        text=question.text,
        scored_by="letter",
        answer=LETTERS[order.index(0)],
        options=tuple(options[place] for place in order),
        evidence=question.evidence,
    )
