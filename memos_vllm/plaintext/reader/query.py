"""The reading side of MemReader: the question of a conversation (`fast`: no model call)."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from datetime import UTC, datetime

from memos_vllm.plaintext.english.times import find_times
from memos_vllm.prompt.messages import Message, last_user, text_of
from memos_vllm.prompt.sentences import names_in, sentences

_SHORT_WORDS = 4
_LONGEST_CHARACTERS = 4000
_LONGEST_READ = 1000  # characters, from the end, that rules search: a question is short
_MOST_NAMES = 16

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
# Past by its meaning, whatever the tense.
_FORMER = (
    r"used to|previous(?:ly)?|formerly|former|back then|back when|at (?:the|that) time|in the past|in those days"
    r"|in my (?:childhood|youth)|no longer|any ?more|ex-\w+|old(?:er)? (?:address|job|home|employer|phone|number|name|flat|car)"
    r"|prior to|until (?:recently|last)|as a (?:child|kid|teenager|student)"
)
_FORMERLY = re.compile(rf"\b(?:{_FORMER})\b", re.IGNORECASE)
_PAST = re.compile(
    rf"\b(?:{_FORMER}|earlier|originally|once upon|last time|did|(?<!if I )(?:was|were)|ago"
    r"|(?<!have )(?<!has )(?<!'ve )(?<!have I )(?<!have you )had)\b|\bbefore\s*[?.!]*$|\bbefore (?:I|we) \w+(?:ed|me|nt|ft|ame)\b",
    re.IGNORECASE,
)
# "What did I say my favourite colour was?" asks for the present value: its tenses are those of a report.
_TELL = (
    r"(?:say|said|tell|told|mention|mentioned|state|stated|write|wrote|written|explain|explained|describe|described"
    r"|share|shared|give|gave|given|inform|informed|specify|specified|note|noted|indicate|indicated|list|listed|claim"
    r"|claimed|let (?:you|me) know|ask(?:ed)? (?:you|me) to (?:remember|note|keep)|talk(?:ed)? to you about)"
)
_REPORT = re.compile(
    r"\b(?:(?:did|have|had|has|do)(?:n't| not)? (?:I|we|you)|I(?:'ve|'d)?|we(?:'ve)?|you(?:'ve)?|I have|you have|(?:was|were) you|have you been)"
    rf" (?:\w+ )??{_TELL}\b(?: (?:you|me|us|to you))?(?: (?:before|earlier|once|already|last time|recently|just now|previously|in the past))?",
    re.IGNORECASE,
)
# "What was my cat's name again?"
_AGAIN = re.compile(r"\b(?:was|were|did)\b[^.!?]*\bagain\s*\?*\s*$", re.IGNORECASE)
_SHIFTED = re.compile(
    r"\b(?:was|were|had|did|lived|worked|liked|loved|owned|drove|\w{3,}ed)\b", re.I
)
_NO_NAME = frozenset(
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
    entities: tuple[str, ...] = ()
    """Names of people, places and things."""
    about_past: bool = False
    """Whether claims that have ended may answer it."""


def read_query(messages: Sequence[Message], now: datetime | None = None) -> MemoryQuery:
    """Read the last user text, behind the one before it where it is too short to stand alone.

    Args:
        now: reference for "last week"; None: the present, in UTC.
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
    """Read a question by rules: its names, and whether it is about the past."""
    end = text[-_LONGEST_READ:]
    people = [a or b for a, b in _PERSON_BY.findall(end)]
    names = [*people, *names_in([f". {sentence}" for sentence in sentences(end)])]
    return MemoryQuery(text, _cleaned(names), _is_about_past(end, now or datetime.now(UTC)))


def _is_about_past(text: str, now: datetime) -> bool:
    """Whether a question is about what has been: by its tense, its words or a past time.

    In a report ("What did I tell you last week about my job?") tense and time are those of the telling.
    """
    report = _REPORT.search(text)
    if report is not None:
        rest = text[report.end() :]
        return _FORMERLY.search(rest) is not None or _is_dated(rest, now)
    if _AGAIN.search(text) and not _FORMERLY.search(text):
        return False
    return _names_past_time(text, now) or _PAST.search(text) is not None


def _is_dated(reported: str, now: datetime) -> bool:
    """Whether a reported clause has a verb in the past, and behind it a time that is over.

    "… my job was in 2019", unlike "… last week about my job".
    """
    verb = _SHIFTED.search(reported)
    return verb is not None and _names_past_time(reported[verb.end() :], now)


def _names_past_time(text: str, now: datetime) -> bool:
    """Whether the text names times, and all of them are over."""
    ends = [mention.range.ends for mention in find_times(text, now)]
    aware = now if now.tzinfo else now.replace(tzinfo=UTC)
    return bool(ends) and all(end is not None and end <= aware for end in ends)


def _cleaned(names: Sequence[str]) -> tuple[str, ...]:
    """Each name once, without words of the question or the calendar in front of it."""
    distinct: dict[str, None] = {}
    for name in names:
        words = name.split()
        while words and (words[0].casefold() in _NO_NAME or _ASKS.fullmatch(words[0])):
            words = words[1:]
        if words and not _ORDERS.fullmatch(words[0]):
            distinct[" ".join(words)] = None
    return tuple(distinct)[:_MOST_NAMES]
