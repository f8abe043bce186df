"""The reading side of MemReader: what a conversation wants from memory (`fast`: no model call)."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

from memos_vllm.cube.model import ItemType
from memos_vllm.plaintext.english.times import TimeRange, find_times
from memos_vllm.prompt.messages import Message, last_user, text_of
from memos_vllm.prompt.words import names_in, sentences

_SHORT_WORDS = 4
_LONGEST_CHARACTERS = 4000
_LONGEST_READ = 1000  # characters, from the end, that are looked into: a question is short
_MOST_NAMES = 16
Intent = Literal["question", "statement", "command"]

_ASKS = re.compile(
    r"(?:(?:and|so|but|ok|okay|hey|hi|well|please|also|then|by the way)[,\s]+)*"
    r"(?:what|when|where|which|who|whom|whose|why|how|do|does|did|is|are|was|were|am|can|could|will|would|should|have"
    r"|has|had|may|might|isn't|aren't|don't|doesn't|didn't|wasn't|remind me|do you (?:know|remember)|tell me"
    r" (?:what|when|where|who|which|why|how|if|whether))\b",
    re.IGNORECASE,
)
_ORDERS = re.compile(
    r"(?:(?:and|so|but|ok|okay|hey|hi|well|now|then)[,\s]+)*(?:please\s+)?"
    r"(?:tell|give|show|list|write|make|create|find|explain|summari[sz]e|translate|help|suggest|recommend|plan|draft"
    r"|compare|calculate|compute|fix|add|remove|delete|update|remember|forget|call|answer|reply|respond|use|send|open"
    r"|book|remind|describe|convert|sort|generate|rewrite|check|read|search|stop|keep|don't|never|always|let)\b",
    re.IGNORECASE,
)
_PAST = re.compile(
    r"\b(?:used to|previous(?:ly)?|formerly|former|back then|back when|at (?:the|that) time|in the past|earlier"
    r"|originally|once|before|last time|did|was|were|had|ago|no longer|ex-\w+)\b",
    re.IGNORECASE,
)
_WANTED: tuple[tuple[ItemType, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(pattern, re.IGNORECASE))
    for kind, pattern in (
        (
            ItemType.PREFERENCE,
            r"\b(?:like|likes|liked|love|loves|hate|hates|dislikes?|enjoys?|prefers?|preferred|preferences?|favou?rites?"
            r"|recommend|suggest|gift|present for|would i want|taste)\b",
        ),
        (
            ItemType.EVENT,
            r"\b(?:when|how long ago|what (?:day|date|time)|happen(?:s|ed)?|appointments?|meetings?|trips?|plans?|schedule"
            r"|calendar|events?|birthday|wedding|last time|what did (?:i|we|\w+) do)\b",
        ),
        (
            ItemType.PROCEDURE,
            r"\bhow (?:do|does|did|can|should|to)\b|\b(?:steps?|procedure|recipe|instructions)\b",
        ),
        (
            ItemType.TOOL_TRACE,
            r"\b(?:tool|function call|api call|search results?|the command|output of)\b",
        ),
        (
            ItemType.PASSAGE,
            r"\b(?:documents?|manual|handbook|pdf|file|page|chapter|section|report|paper|article|according to)\b",
        ),
        (
            ItemType.FACT,
            r"\b(?:name|called|live|lives|home|address|work|works|job|employer|age|old|born|birthday|wife|husband"
            r"|partner|son|daughter|brother|sister|mother|father|cat|dog|pet|allerg\w+|diet|speak|own)\b",
        ),
    )
)
_NO_PERSON = frozenset(
    re.findall(
        r"\w+",
        "monday tuesday wednesday thursday friday saturday sunday january february march april may june july august "
        "september october november december i i'm i've english german french spanish italian chinese japanese",
    )
)
_PERSON_BY = re.compile(
    r"\b(?i:who is|who's|about|with|did|does|is|was|has|tell|ask|met|from)\s+([A-Z][\w-]+(?: [A-Z][\w-]+)?)"
    r"|\b([A-Z][\w-]+(?: [A-Z][\w-]+)?)(?:'s|\s(?:likes?|said|says|told|wants?|lives?|works?|has|did))\b"
)


@dataclasses.dataclass(frozen=True, slots=True)
class MemoryQuery:
    text: str
    """The question; empty when the conversation asks nothing."""
    intent: Intent = "statement"
    people: tuple[str, ...] = ()
    """Names that stand where a person's stands."""
    entities: tuple[str, ...] = ()
    """All names, people's included."""
    window: TimeRange | None = None
    """The time that it asks about."""
    types: tuple[ItemType, ...] = ()
    """Kinds of items that would answer it, the likeliest first; empty: any."""
    about_past: bool = False
    """It asks how things were, so that what no longer holds may answer it."""


def read_query(messages: Sequence[Message], now: datetime | None = None) -> MemoryQuery:
    """The last user text. One too short to mean anything alone brings the one before it along.

    Args:
        now: what "last week" is seen from; None: the present, in UTC.
    """
    position = last_user(messages)
    if position is None:
        return MemoryQuery("")
    text = text_of(messages[position]).strip()
    if len(text.split()) < _SHORT_WORDS:
        before = last_user(messages[:position])
        if before is not None:
            text = f"{text_of(messages[before]).strip()}\n{text}"
    return read_text(text[-_LONGEST_CHARACTERS:], now)


def read_text(text: str, now: datetime | None = None) -> MemoryQuery:
    """What a text asks for, by its words."""
    moment = now or datetime.now(UTC)
    end = text[-_LONGEST_READ:]
    window = _window(end, moment)
    past_window = window is not None and window.ends is not None and window.ends <= _aware(moment)
    people = [a or b for a, b in _PERSON_BY.findall(end)]
    entities = [*people, *names_in([f". {sentence}" for sentence in sentences(end)])]
    return MemoryQuery(
        text=text,
        intent=_intent(end),
        people=_names(people),
        entities=_names(entities),
        window=window,
        types=tuple(kind for kind, pattern in _WANTED if pattern.search(end)),
        about_past=past_window or _PAST.search(end) is not None,
    )


def _intent(text: str) -> Intent:
    """Of its last sentence that is one of the two; a text with a question anywhere asks it."""
    spoken = sentences(text)
    if any(sentence.endswith("?") for sentence in spoken):
        return "question"
    for sentence in reversed(spoken):
        if _ASKS.match(sentence):
            return "question"
        if _ORDERS.match(sentence):
            return "command"
    return "statement"


def _window(text: str, now: datetime) -> TimeRange | None:
    """The one time that is named, or all of them from the first to the last."""
    ranges = [mention.range for mention in find_times(text, now)]
    if not ranges:
        return None
    begins = [one.begins for one in ranges if one.begins is not None]
    ends = [one.ends for one in ranges if one.ends is not None]
    return TimeRange(
        min(begins) if len(begins) == len(ranges) else None,
        max(ends) if len(ends) == len(ranges) else None,
    )


def _names(names: Sequence[str]) -> tuple[str, ...]:
    """Each once, without a word of the question or the calendar in front of it."""
    kept: dict[str, None] = {}
    for name in names:
        words = name.split()
        while words and (words[0].casefold() in _NO_PERSON or _ASKS.fullmatch(words[0])):
            words = words[1:]
        if words and not _ORDERS.fullmatch(words[0]):
            kept[" ".join(words)] = None
    return tuple(kept)[:_MOST_NAMES]


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
