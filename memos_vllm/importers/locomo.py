"""Importer of LoCoMo: very long conversations of two people, with questions about them.

Source: Maharana et al., "Evaluating Very Long-Term Conversational Memory of LLM Agents" (ACL 2024),
`locomo10.json` of github.com/snap-research/locomo (CC BY-NC 4.0).
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from memos_vllm.cube.model import (
    ExplicitPayload,
    Item,
    ItemType,
    Label,
    NewCube,
    NewMeta,
    Provenance,
)
from memos_vllm.errors import BadRequest
from memos_vllm.importers.files import read_json
from memos_vllm.importers.source import (
    ImportedCube,
    ImportSource,
    import_name,
    refusing_other_shapes,
    storable,
)

FORMAT = "locomo"
_SESSION = re.compile(r"session_(\d+)")
_TIME = re.compile(r"(\d{1,2}):(\d{2}) ([ap])m on (\d{1,2}) (\w+), (\d{4})", re.IGNORECASE)
# Not strptime: its month names and "pm" follow the locale.
_MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)


class Turn(BaseModel):
    """One utterance; the data set's fields that are not used here are ignored."""

    model_config = ConfigDict(frozen=True)

    speaker: Label
    dia_id: Label
    text: str
    blip_caption: str | None = None

    @property
    def shown(self) -> str:
        """Text of the turn, and the caption of its image."""
        caption = f" [shares an image: {self.blip_caption}]" if self.blip_caption else ""
        return storable(self.text + caption)


@dataclasses.dataclass(frozen=True, slots=True)
class Session:
    number: int
    started: datetime
    turns: tuple[Turn, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Conversation:
    sample_id: str
    speakers: tuple[str, str]
    sessions: tuple[Session, ...]
    questions: tuple[Mapping[str, Any], ...]


def read_conversations(path: Path) -> list[Conversation]:
    """Conversations of a file. Raises BadRequest, which names the conversation and field at fault."""
    tree = read_json(path)
    if not isinstance(tree, list) or not tree:
        raise BadRequest(f"{path}: a LoCoMo file is a list of conversations (locomo10.json)")
    return [_conversation(path, number, raw) for number, raw in enumerate(tree, start=1)]


def choose_conversation(conversations: Sequence[Conversation], which: str) -> Conversation:
    """By `sample_id` (`conv-26`), or by number from 1. Raises BadRequest, which lists the ids."""
    for conversation in conversations:
        if conversation.sample_id == which:
            return conversation
    if which.isdecimal() and 1 <= int(which) <= len(conversations):
        return conversations[int(which) - 1]
    known = ", ".join(conversation.sample_id for conversation in conversations)
    raise BadRequest(
        f"no conversation {which!r}: give 1 to {len(conversations)}, or one of {known}"
    )


def session_cubes(conversation: Conversation, person: str) -> Iterator[NewCube]:
    """One cube per session, as the memory of `person`."""
    for session in conversation.sessions:
        label = f"session_{session.number}"
        items = [
            Item(
                type=ItemType.EPISODE,
                text=turn.shown,
                speaker=turn.speaker,
                # The data set dates sessions only; a second a turn keeps their order.
                time=session.started + timedelta(seconds=position),
                session=label,
                source=turn.dia_id,
            )
            for position, turn in enumerate(session.turns)
            if turn.shown
        ]
        if items:
            meta = NewMeta(
                name=import_name(FORMAT, conversation.sample_id, label),
                person=person,
                tags=["import", FORMAT, conversation.sample_id],
                provenance=Provenance(origin=f"import:{FORMAT}", session=label),
            )
            yield NewCube(meta=meta, payload=ExplicitPayload(content=items))


@refusing_other_shapes
def locomo_source(path: Path, which: str | None = None, person: str | None = None) -> ImportSource:
    """Every chosen conversation as memory of both speakers, or of `person` alone."""
    conversations = read_conversations(path)
    names = person_names(conversations)
    chosen = [choose_conversation(conversations, which)] if which else conversations
    cubes = [
        ImportedCube(new)
        for conversation in chosen
        for owner in ([person] if person else names[conversation.sample_id])
        for new in session_cubes(conversation, owner)
    ]
    return ImportSource(
        FORMAT, path, len(cubes), lambda: iter(cubes), _notes(chosen, names, person)
    )


def person_names(conversations: Sequence[Conversation]) -> dict[str, tuple[str, ...]]:
    """Persons by conversation: the speakers; one whose name recurs is `John (conv-41)`.

    Three conversations of the data set have a John, and they are three people.
    """
    count = Counter(name for conversation in conversations for name in set(conversation.speakers))
    return {
        conversation.sample_id: tuple(
            name if count[name] == 1 else f"{name} ({conversation.sample_id})"
            for name in dict.fromkeys(conversation.speakers)
        )
        for conversation in conversations
    }


def _notes(
    chosen: Sequence[Conversation], names: Mapping[str, Sequence[str]], person: str | None
) -> tuple[str, ...]:
    if person:
        return ()
    persons = [name for conversation in chosen for name in names[conversation.sample_id]]
    return (f"persons: {', '.join(persons)}",)


def _conversation(path: Path, number: int, raw: Any) -> Conversation:
    try:
        talk = raw["conversation"]
        sample = str(raw.get("sample_id") or f"conv-{number}")
        speakers = (str(talk["speaker_a"]), str(talk["speaker_b"]))
        sessions = [
            _session(talk, key, int(match.group(1)))
            for key, value in talk.items()
            if (match := _SESSION.fullmatch(key)) and value
        ]
        questions = tuple(raw.get("qa") or ())
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        cause = f"no field {error}" if isinstance(error, KeyError) else str(error)
        if isinstance(error, ValidationError):
            problem = error.errors()[0]
            cause = f"turn field {'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
        raise BadRequest(
            f"{path}: conversation {number} is not in LoCoMo's form ({cause}); "
            "compare it with locomo10.json of github.com/snap-research/locomo"
        ) from error
    ordered = tuple(sorted(sessions, key=lambda session: session.number))
    return Conversation(sample, speakers, ordered, questions)


def _session(talk: Mapping[str, Any], key: str, number: int) -> Session:
    turns = tuple(Turn.model_validate(turn) for turn in talk[key])
    return Session(number, parse_time(talk[f"{key}_date_time"]), turns)


def parse_time(text: str) -> datetime:
    """Time such as `1:56 pm on 8 May, 2023`, read as UTC. Raises ValueError."""
    match = _TIME.fullmatch(text.strip())
    if match is None or match.group(5).lower() not in _MONTHS:
        raise ValueError(f"no time like '1:56 pm on 8 May, 2023': {text!r}")
    hour = int(match.group(1)) % 12 + (12 if match.group(3).lower() == "p" else 0)
    month = _MONTHS.index(match.group(5).lower()) + 1
    return datetime(
        int(match.group(6)), month, int(match.group(4)), hour, int(match.group(2)), tzinfo=UTC
    )
