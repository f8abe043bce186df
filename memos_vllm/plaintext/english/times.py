"""Extract times from English text as calendar ranges: "last Friday", "in May 2023", "since 2019".

A grammar of phrases finds them; `dateparser` resolves them relative to the time of the message.
Ambiguous phrases (05/07/2023) are left out.

The width follows the phrase: a day, a week (from Monday), a weekend, a month, a year, a decade.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

_DAY = timedelta(days=1)
_LONGEST_TEXT = 20_000
_MOST_TIMES = 32  # phrases that are resolved: each takes up to a millisecond
_LONGEST_SENTENCE = 400  # characters around a phrase in which verbs are looked for
_UNIT = r"(?:day|week|fortnight|month|year|decade|hour|minute)"
_COUNT = (
    r"(?:\d{1,3}|an?|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve"
    r"|a\s+couple\s+of|a\s+few|several|half\s+an?)"
)
_WEEKDAY = r"(?:monday|tuesday|wednesday|thursday|friday|saturday|sunday)"
# "may", "march" and "august" are also other words: as months they need their capital.
_MONTH = (
    r"(?:january|february|(?-i:March)|april|(?-i:May)|june|july|(?-i:August)|september|october"
    r"|november|december|(?:jan|feb|apr|jun|jul|aug|sept|sep|oct|nov|dec)\b\.?|(?-i:Mar)\b\.?)"
)
_YEAR = r"(?:19|20)\d\d"
_NO_QUANTITY = (
    r"(?!\w|[.,:]\d|\s*(?:%|[$€£]|[kc]?m\b|kg|miles|dollars|euros|pounds|people|users|words|steps"
    r"|calories|tokens|lines|rows|items|times|hours|days|meters|metres|pieces))"
)
_ORDINAL = r"(?:[12]?\d|3[01])(?:st|nd|rd|th)?"
_PART = r"(?:morning|afternoon|evening|night)"
_PHRASES = {
    "iso": r"\d{4}-\d\d-\d\d(?!\d)",
    "slashed": r"\d{1,2}/\d{1,2}/\d{4}(?!\d)",
    "dotted": r"\d{1,2}\.\d{1,2}\.\d{4}(?!\d)",
    "dated": rf"(?:{_WEEKDAY},?\s+)?(?:the\s+)?{_ORDINAL}\s+(?:of\s+)?{_MONTH}(?:,?\s+{_YEAR})?(?!\w)"
    rf"|(?:{_WEEKDAY},?\s+)?{_MONTH}\s+(?:the\s+)?{_ORDINAL}(?:,?\s+{_YEAR})?(?![\w:])",
    "month_year": rf"{_MONTH},?\s+(?:of\s+)?{_YEAR}(?!\w)",
    "near": rf"(?:the\s+)?day\s+(?:before\s+yesterday|after\s+tomorrow)|(?:yesterday|tomorrow)(?:\s+{_PART})?"
    rf"|today|tonight|this\s+{_PART}|last\s+night",
    "ago": rf"{_COUNT}\s+{_UNIT}s?\s+ago",
    "ahead": rf"in\s+{_COUNT}\s+{_UNIT}s?(?:'s?)?(?:\s+time)?(?!\w)|{_COUNT}\s+{_UNIT}s?\s+from\s+now",
    "window": rf"(?:the\s+)?(?:last|past)\s+{_COUNT}\s+{_UNIT}s|the\s+past\s+{_UNIT}",
    "weekend": r"(?:last|this|next|past|coming)\s+weekend",
    "relative": rf"(?:last|this|next)\s+(?:week|month|year|{_WEEKDAY}|{_MONTH})(?!\w)",
    "weekday": rf"{_WEEKDAY}(?!\w)(?!,?\s+the\s+\d)",
    "decade": r"the\s+(?:19|20)?\d0'?s(?!\w)",
    "month": rf"{_MONTH}(?!\w)",
    "year": _YEAR + _NO_QUANTITY,
}
_BEFORE = r"(?:since|until|till|before|after|by|from|between|in|during|on|of|around|every|each)"
_PHRASE = re.compile(
    rf"(?<![\w/.$€£-])(?:(?P<before>{_BEFORE})\s+)?(?:(?:early|mid|late)[ -])?(?:"
    + "|".join(f"(?P<{name}>{pattern})" for name, pattern in _PHRASES.items())
    + ")",
    re.IGNORECASE,
)
# The grammar matches nothing without a digit or one of these; this check takes microseconds.
_HINTS = (
    *(
        "day",
        "night",
        "morrow",
        "morning",
        "noon",
        "evening",
        "ago",
        "week",
        "month",
        "year",
        "decade",
    ),
    *(
        "hour",
        "minute",
        "jan",
        "feb",
        "mar",
        "apr",
        "may",
        "jun",
        "jul",
        "aug",
        "sep",
        "oct",
        "nov",
    ),
    "dec",
)
_HINT = re.compile(
    r"\d\d|\d(?:st|nd|rd|th)?\s|day|night|morrow|\bthis\s|\bago\b|week|month|year|decade"
    r"|\bJan|\bFeb|\bMar|\bApr|\bMay\b|\bJu[nl]|\bAug|\bSep|\bOct|\bNov|\bDec"
    r"|hour|minute",
    re.IGNORECASE,
)
_DIGIT = re.compile(r"\d")
_SPAN = re.compile(r"\s*(?:to|until|till|and|through|-|\u2013)\s*", re.IGNORECASE)
_SECOND_YEAR = re.compile(rf"\s*(?:to|until|till|and|-|\u2013)\s*(?P<year>{_YEAR}){_NO_QUANTITY}")
_SENTENCE_END = re.compile(r"[.!?](?:\s|$)|\n")
_AHEAD = re.compile(
    r"\bwill\b|'ll\b|\bgoing to\b|\bgonna\b|\b(?:have|has|got) (?:an?|my|the|to)\b|\bplan|appointment"
    r"|\bbooked|\bschedul|upcoming|\bdue\b|deadline|\bremind|\b(?:is|are|'s|'re|am|'m) (?:\w+ )?(?:on|in|\w+ing)\b",
    re.IGNORECASE,
)
_BEHIND = re.compile(
    r"\b(?:was|were|had|did|went|got|came|saw|met|made|took|bought|left|told|said|began|became|used to"
    r"|been|\w{2,}ed)\b",
    re.IGNORECASE,
)
_FEW = re.compile(r"(?:a\s+few|several)\s+", re.IGNORECASE)
_COUPLE = re.compile(r"a\s+couple\s+of", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, slots=True)
class TimeRange:
    """Half-open range `[begins, ends)` with time zones; None: unbounded."""

    begins: datetime | None
    ends: datetime | None

    def covers(self, moment: datetime) -> bool:
        return (self.begins is None or self.begins <= moment) and (
            self.ends is None or moment < self.ends
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Mention:
    """`text[start:end]` names `range`."""

    start: int
    end: int
    text: str
    range: TimeRange


_Span = tuple[datetime, datetime]  # naive, in the speaker's zone


def find_times(text: str, said_at: datetime) -> list[Mention]:
    """Times in the text, in order, without overlap; raises on no text.

    Args:
        said_at: time of the message; days begin in its zone (without one: UTC).
    """
    text = text[:_LONGEST_TEXT]
    if not _may_name_a_time(text):
        return []
    aware = said_at if said_at.tzinfo else said_at.replace(tzinfo=UTC)
    now = aware.replace(tzinfo=None)
    found = _joined(text, list(_found(text, now)))
    return [
        Mention(start, end, text[start:end], _bounded(before, span, aware))
        for start, end, before, span in found
    ]


def load() -> None:
    """Load dateparser; otherwise the first match takes a tenth of a second more."""
    find_times("yesterday", datetime.now(UTC))


def _may_name_a_time(text: str) -> bool:
    folded = text.casefold()
    if not any(hint in folded for hint in _HINTS) and _DIGIT.search(text) is None:
        return False
    return _HINT.search(text) is not None


_Found = tuple[int, int, str, _Span]  # start, end, the word before, span


def _found(text: str, now: datetime) -> Iterator[_Found]:
    position = 0
    for _ in range(_MOST_TIMES):
        match = _PHRASE.search(text, position)
        if match is None:
            return
        position = match.end()
        kind = match.lastgroup or ""
        before = (match["before"] or "").casefold()
        if before in ("every", "each") or not _is_meant(kind, before):
            continue
        try:
            span = _READ[kind](match[kind], now, _leaning(text, match, before))
            second = _SECOND_YEAR.match(text, position) if kind == "year" else None
            if span is not None and second is not None and before in ("from", "between"):
                position, before = second.end(), "in"
                span = (span[0], _years(int(second["year"]), 1)[1])
        except (ValueError, OverflowError):
            continue  # the 31st of February, the year 10000
        if span is not None and span[0] < span[1]:
            yield match.start(), position, before, span


def _is_meant(kind: str, before: str) -> bool:
    """Whether a phrase is a time: a bare month or year needs a preposition ("June" is a name)."""
    return kind not in ("month", "year") or before not in ("", "on", "of")


def _leaning(text: str, match: re.Match[str], before: str) -> str:
    """`past` or `future`, for a day without a year or week, by the sentence's verbs."""
    if before in ("since", "from"):
        return "past"
    if before in ("until", "till", "by"):
        return "future"
    begins = max(0, match.start() - _LONGEST_SENTENCE)
    ends = [end.end() for end in _SENTENCE_END.finditer(text, begins, match.start())]
    following = _SENTENCE_END.search(text, match.end(), match.end() + _LONGEST_SENTENCE)
    after = following.start() if following else match.end() + _LONGEST_SENTENCE
    sentence = text[ends[-1] if ends else begins : after]
    is_ahead = _AHEAD.search(sentence) is not None and _BEHIND.search(sentence) is None
    return "future" if is_ahead else "past"


def _joined(text: str, found: list[_Found]) -> list[_Found]:
    """Join two times to one span: "from Monday to Friday", "between 3 May and 7 May"."""
    joined: list[_Found] = []
    for one in found:
        last = joined[-1] if joined else None
        if (
            last is not None
            and last[2] in ("from", "between")
            and _SPAN.fullmatch(text, last[1], one[0] + len(one[2]))
            and last[3][0] < (ends := _following(last[3][0], one[3]))
        ):
            joined[-1] = (last[0], one[1], "in", (last[3][0], ends))
        else:
            joined.append(one)
    return joined


def _following(begins: datetime, day: _Span) -> datetime:
    """The end of the second day of a span, moved behind the first: "Monday to Friday"."""
    is_of_last_week = day[1] - day[0] == _DAY and -7 * _DAY < day[0] - begins < 0 * _DAY
    return day[1] + 7 * _DAY if is_of_last_week else day[1]


def _bounded(before: str, span: _Span, said_at: datetime) -> TimeRange:
    begins, ends = (moment.replace(tzinfo=said_at.tzinfo) for moment in span)
    match before:
        case "since":
            return TimeRange(begins, None)
        case "until" | "till" | "by":
            return TimeRange(None, ends)
        case "before":
            return TimeRange(None, begins)
        case "after":
            return TimeRange(ends, None)
    return TimeRange(begins, ends)


# -- resolvers, one per kind of phrase: (words, now, leaning) -> span ------------------------------


def _by_library(words: str, now: datetime, leaning: str) -> _Span | None:
    """Resolve by dateparser, with the width of its `period`."""
    plain = " ".join(words.replace(".", " ").split())
    read = _parser(now.replace(minute=0, second=0, microsecond=0), leaning).get_date_data(plain)
    return None if read.date_obj is None else _whole(read.date_obj, str(read.period))


@functools.lru_cache(maxsize=64)
def _parser(now: datetime, leaning: str) -> Any:
    from dateparser.date import DateDataParser  # a tenth of a second: only when needed

    settings: dict[str, Any] = {
        "RELATIVE_BASE": now,
        "PREFER_DATES_FROM": leaning,
        "RETURN_TIME_AS_PERIOD": True,
    }
    return DateDataParser(languages=["en"], settings=settings)


def _whole(moment: datetime, period: str) -> _Span:
    day = moment.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
    match period:
        case "week":
            monday = day - day.weekday() * _DAY
            return monday, monday + 7 * _DAY
        case "month":
            first = day.replace(day=1)
            return first, (first + 31 * _DAY).replace(day=1)
        case "year":
            return _years(day.year, 1)
    return day, day + _DAY


def _years(first: int, count: int) -> _Span:
    return datetime(first, 1, 1), datetime(first + count, 1, 1)


def _slashed(words: str, now: datetime, leaning: str) -> _Span | None:
    """Day first or month first; None where both are possible."""
    one, two, year = (int(part) for part in words.split("/"))
    if one <= 12 and two <= 12 and one != two:
        return None
    return _whole(datetime(year, *((two, one) if one > 12 else (one, two))), "day")


def _dotted(words: str, now: datetime, leaning: str) -> _Span | None:
    day, month, year = (int(part) for part in words.split("."))
    return _whole(datetime(year, month, day), "day")


def _counted(words: str, now: datetime, leaning: str) -> _Span | None:
    """Resolve "three weeks ago"; "a few" is two to six."""
    words = _COUPLE.sub("2", words)
    if (few := _FEW.search(words)) is None:
        return _by_library(words, now, leaning)
    spans = [_by_library(_FEW.sub(f"{count} ", words), now, leaning) for count in (2, 6)]
    if spans[0] is None or spans[1] is None or few is None:
        return None
    return min(spans[0][0], spans[1][0]), max(spans[0][1], spans[1][1])


def _window(words: str, now: datetime, leaning: str) -> _Span | None:
    """Resolve "the past two weeks": from then to the end of today."""
    phrase = re.sub(r"^(?:the\s+)?(?:last|past)\s+", "", words, flags=re.IGNORECASE)
    count = phrase if " " in phrase else f"1 {phrase}"
    span = _counted(f"{count} ago", now, leaning)
    if span is None:
        return None
    read = _parser(now.replace(minute=0, second=0, microsecond=0), leaning)
    exact = read.get_date_data(f"{_COUPLE.sub('2', _FEW.sub('6 ', count))} ago").date_obj
    return _whole(exact or span[0], "day")[0], _whole(now, "day")[1]


def _weekend(words: str, now: datetime, leaning: str) -> _Span | None:
    """Resolve "this", "last" and "next weekend"; weeks begin on Monday."""
    monday = _whole(now, "week")[0]
    word = words.split()[0].casefold()
    saturday = monday + {"last": -2, "past": -2, "next": 12}.get(word, 5) * _DAY
    return saturday, saturday + 2 * _DAY


def _relative(words: str, now: datetime, leaning: str) -> _Span | None:
    """Resolve "last Friday", "next month", "this May"."""
    which, name = words.casefold().split()
    if which == "this" and name.endswith("day"):
        return _by_library(name, now - _DAY, "future")  # today included
    if name in ("week", "month", "year"):
        return _by_library(words, now, leaning)
    if name.endswith("day"):
        return _by_library(name, now, "past" if which == "last" else "future")
    span = _by_library(f"{name} {now.year}", now, leaning)
    if span is None or which == "this":
        return span
    is_over, is_to_come = span[1] <= now, span[0] > now
    shift = -(not is_over) if which == "last" else int(not is_to_come)
    return _by_library(f"{name} {now.year + shift}", now, leaning)


def _month(words: str, now: datetime, leaning: str) -> _Span | None:
    """The nearest such month in that direction, the current one included."""
    span = _by_library(f"{words} {now.year}", now, leaning)
    if span is None or span[0] <= now < span[1]:
        return span
    shift = {"past": -(span[0] > now), "future": int(span[1] <= now)}[leaning]
    return _by_library(f"{words} {now.year + shift}", now, leaning)


def _decade(words: str, now: datetime, leaning: str) -> _Span | None:
    """Resolve "the 1990s", "the 90s"; two digits are the latest decade that has begun."""
    digits = re.sub(r"\D", "", words)
    if len(digits) == 4:
        return _years(int(digits), 10)
    year = now.year // 100 * 100 + int(digits)
    return _years(year if year <= now.year else year - 100, 10)


def _year(words: str, now: datetime, leaning: str) -> _Span | None:
    return _years(int(words), 1)


_READ: dict[str, Callable[[str, datetime, str], _Span | None]] = {
    "iso": lambda words, now, leaning: _whole(datetime.fromisoformat(words), "day"),
    "slashed": _slashed,
    "dotted": _dotted,
    "dated": _by_library,
    "month_year": _by_library,
    "near": _by_library,
    "ago": _counted,
    "ahead": _counted,
    "window": _window,
    "weekend": _weekend,
    "relative": _relative,
    "weekday": _by_library,
    "decade": _decade,
    "month": _month,
    "year": _year,
}
