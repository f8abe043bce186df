"""LoCoMo: turns in order, and questions whose evidence exists."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

CATEGORIES = {1: "multi-hop", 2: "temporal", 3: "open-domain", 4: "single-hop"}
_SESSION = re.compile(r"session_(\d+)")
# Some evidence is several ids in one string ("D8:6; D9:17"), or mistyped ("D:11:26", "D30:05").
_EVIDENCE = re.compile(r"D\s*:?\s*(\d+)\s*:\s*(\d+)")


class DataUnavailable(Exception):
    """The file is missing or is not LoCoMo; the message says what to do."""


@dataclasses.dataclass(frozen=True, slots=True)
class Turn:
    id: str
    session: str
    speaker: str
    text: str
    time: datetime | None


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    text: str
    category: int
    evidence: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Conversation:
    name: str
    turns: tuple[Turn, ...]
    questions: tuple[Question, ...]

    @property
    def sessions(self) -> dict[str, list[Turn]]:
        return by_session(self.turns)


@dataclasses.dataclass(frozen=True, slots=True)
class Dataset:
    conversations: tuple[Conversation, ...]
    left_out: dict[str, int]
    """Questions of categories 1 to 4 that cannot be scored, by reason."""
    ids_dropped: int
    """Evidence entries that name no turn, of questions with other evidence that does."""
    sha256: str


def by_session(turns: Iterable[Turn]) -> dict[str, list[Turn]]:
    grouped: dict[str, list[Turn]] = {}
    for turn in turns:
        grouped.setdefault(turn.session, []).append(turn)
    return grouped


def load(path: Path) -> Dataset:
    """Read the data set. Raises DataUnavailable."""
    try:
        data = path.read_bytes()
        samples = json.loads(data)
    except OSError as error:
        raise DataUnavailable(
            f"LoCoMo is not at {path} ({error.strerror}). Get locomo10.json (CC BY-NC 4.0) from the "
            "repository snap-research/locomo and name it with --data PATH"
        ) from error
    except json.JSONDecodeError as error:
        raise DataUnavailable(f"{path} is not JSON: {error}") from error
    try:
        parsed = [_conversation(sample) for sample in samples]
    except (KeyError, TypeError, AttributeError) as error:
        raise DataUnavailable(f"{path} does not have LoCoMo's form: {error!r}") from error
    left_out: dict[str, int] = {}
    for _, reasons, _ in parsed:
        for reason in reasons:
            left_out[reason] = left_out.get(reason, 0) + 1
    return Dataset(
        conversations=tuple(conversation for conversation, _, _ in parsed),
        left_out=left_out,
        ids_dropped=sum(dropped for _, _, dropped in parsed),
        sha256=hashlib.sha256(data).hexdigest(),
    )


def parse_evidence(raw: Iterable[str], existing: Mapping[str, Any]) -> tuple[list[str], int]:
    """(existing turn ids that the entries name, without repeats; number of ids that name no turn)

    An entry without an id ("D") counts as one of the latter.
    """
    found: dict[str, None] = {}
    dropped = 0
    for entry in raw:
        ids = [f"D{int(session)}:{int(turn)}" for session, turn in _EVIDENCE.findall(entry)]
        found.update(dict.fromkeys(turn for turn in ids if turn in existing))
        dropped += sum(turn not in existing for turn in ids) if ids else 1
    return list(found), dropped


def _conversation(sample: Mapping[str, Any]) -> tuple[Conversation, list[str], int]:
    turns = tuple(_turns(sample["conversation"]))
    existing = {turn.id: turn for turn in turns}
    questions, left_out, dropped_ids = [], [], 0
    for entry in sample["qa"]:
        if entry["category"] not in CATEGORIES:
            continue
        evidence, dropped = parse_evidence(entry["evidence"], existing)
        if evidence:
            questions.append(Question(entry["question"], entry["category"], tuple(evidence)))
            dropped_ids += dropped
        else:
            left_out.append("evidence names no existing turn" if dropped else "no evidence given")
    return Conversation(sample["sample_id"], turns, tuple(questions)), left_out, dropped_ids


def _turns(conversation: Mapping[str, Any]) -> Iterable[Turn]:
    sessions = [match for key in conversation if (match := _SESSION.fullmatch(key))]
    for match in sorted(sessions, key=lambda match: int(match[1])):
        moment = _time(conversation.get(f"{match[0]}_date_time"))
        for turn in conversation[match[0]]:
            yield Turn(turn["dia_id"], match[0], turn["speaker"], _shown(turn), moment)


def _shown(turn: Mapping[str, Any]) -> str:
    """Text of a turn with the caption of its image, as the importer stores it."""
    caption = turn.get("blip_caption")
    return f"{turn['text']} [shares an image: {caption}]" if caption else str(turn["text"])


def _time(written: str | None) -> datetime | None:
    """Parse `1:56 pm on 8 May, 2023`, which names no zone, as UTC."""
    if not written:
        return None
    return datetime.strptime(written, "%I:%M %p on %d %B, %Y").replace(tzinfo=UTC)
