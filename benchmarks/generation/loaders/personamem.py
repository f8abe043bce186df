"""PersonaMem (Jiang et al., COLM 2025): `questions_32k.csv` of bowen-upenn/PersonaMem.

The histories are in `shared_contexts_32k.jsonl` beside it: one object per line, an id and its messages.  A
question sees the messages before its `end_index_in_shared_context`; each such prefix is a history.
"""

from __future__ import annotations

import ast
import csv
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.generation.dataset import LETTERS, Dataset, History, Question, Turn, field, turn
from memos_vllm.errors import BadRequest
from memos_vllm.importers.files import content_sha256, json_lines

_LETTER = re.compile(r"\(?([a-z])\)?")
_OPTION = re.compile(r"\s*\(([a-z])\)\s*")


def load(path: Path) -> Dataset:
    contexts = dict(_contexts(contexts_path(path)))
    groups: dict[tuple[str, int], list[Question]] = {}
    for number, row in enumerate(_rows(path), start=1):
        where = f"{path.name}, row {number}"
        context = field(row, "shared_context_id", str, where)
        if context not in contexts:
            raise BadRequest(f"{where}: `shared_context_id` {context!r} is no history's")
        end = field(row, "end_index_in_shared_context", str, where)
        if not end.isdecimal():
            raise BadRequest(f"{where}: `end_index_in_shared_context` must be a number: {end!r}")
        groups.setdefault((context, int(end)), []).append(_question(row, where))
    histories = tuple(
        History(f"person {number}", tuple(_turns(contexts[context][:end])), tuple(questions))
        for number, ((context, end), questions) in enumerate(groups.items(), start=1)
    )
    return Dataset("personamem", histories, content_sha256(path))


def contexts_path(path: Path) -> Path:
    """`questions_32k.csv` → `shared_contexts_32k.jsonl`."""
    return path.with_name(path.stem.replace("questions", "shared_contexts") + ".jsonl")


def _rows(path: Path) -> Iterator[Mapping[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from csv.DictReader(file)
    except OSError as error:
        raise BadRequest(f"cannot read {path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadRequest(f"{path.name}: no CSV in UTF-8: {error}") from error


def _contexts(path: Path) -> Iterator[tuple[str, list[Any]]]:
    for number, line in json_lines(path):
        for name, messages in line.items():
            if not isinstance(messages, list):
                raise BadRequest(f"{path.name}, line {number}: `{name}` must be a list of messages")
            yield name, messages


def _question(row: Mapping[str, str], where: str) -> Question:
    asked = "question" if "question" in row else "user_question_or_message"  # its earlier name
    options = _options(field(row, "all_options", str, where), where)
    correct = field(row, "correct_answer", str, where)
    letter = _LETTER.fullmatch(correct.strip().lower())
    if letter is None or letter[1] not in LETTERS[: len(options)]:
        raise BadRequest(f"{where}: `correct_answer` is no option's letter: {correct!r}")
    return Question(
        id=field(row, "question_id", str, where),
        kind=field(row, "question_type", str, where),
        text=field(row, asked, str, where),
        scored_by="letter",
        answer=letter[1],
        options=options,
    )


def _options(written: str, where: str) -> tuple[str, ...]:
    """Parse a list of `(a) …`, `(b) …`, written as Python or JSON; drops the letters."""
    try:
        options = ast.literal_eval(written)
    except (ValueError, SyntaxError) as error:
        raise BadRequest(f"{where}: `all_options` is no list of strings: {error}") from error
    if not isinstance(options, list) or len(options) < 2:
        raise BadRequest(f"{where}: `all_options` must be a list of two options or more")
    bare = []
    for letter, option in zip(LETTERS, options, strict=False):
        head = _OPTION.match(option) if isinstance(option, str) else None
        if head is None or head[1] != letter:
            raise BadRequest(f"{where}: `all_options` must begin with ({letter}): {option!r}")
        bare.append(option[head.end() :])
    return tuple(bare)


def _turns(messages: Sequence[Any]) -> Iterator[Turn]:
    """Turns of a history; a system message, which describes the person, starts a session."""
    sessions = itertools.count()
    session = f"session_{next(sessions)}"
    for number, message in enumerate(messages):
        where = f"message {number + 1} of a shared context"
        role = field(message, "role", str, where)
        if role == "system":
            session = f"session_{next(sessions)}"
        text = field(message, "content", str, where)
        if (made := turn(f"{number:05}", session, role, text, None)) is not None:
            yield made
