"""Extract events: clauses about a past or future action of the speaker at a time."""

from __future__ import annotations

import re

from memos_vllm.plaintext.english.clauses import stripped_clause
from memos_vllm.plaintext.english.lexicon import BASE_FORMS
from memos_vllm.plaintext.english.times import Mention, TimeRange

_HAVE = re.compile(
    r"I(?: have|'ve got| have got) (?P<what>(?:an?|my|the) (?:[\w'-]+ ){0,4}?(?:appointment|meeting|exam|test|interview|flight"
    r"|trip|vacation|holiday|wedding|party|concert|class|lesson|date|deadline|surgery|operation|checkup|check-up|call"
    r"|race|marathon|game|match|reservation|reunion|conference|presentation|visit|session|job interview|rehearsal)"
    r"(?: (?:with|at|in|for|to) [\w' -]{1,60})?)",
    re.IGNORECASE,
)
_MY = re.compile(
    r"my (?P<what>(?:[\w'-]+ ){0,3}?(?:appointment|meeting|exam|interview|flight|trip|wedding|concert|graduation|surgery"
    r"|operation|checkup|party|holiday|vacation|deadline|marathon|conference|presentation)"
    r"(?: (?:with|at|in|for|to) [\w' -]{1,60})?) (?:is|starts|begins)",
    re.IGNORECASE,
)
_GOING = re.compile(
    r"I(?:'m| am) (?P<what>(?:going|flying|travel+ing|driving|moving) to [\w' -]{2,60}"
    r"|(?:meeting|visiting|seeing|starting|getting|running|having|leaving) [\w' -]{2,60})",
    re.IGNORECASE,
)
_WILL = re.compile(
    r"I(?:'ll| will) (?P<what>(?:go|fly|travel|drive|move) to [\w' -]{2,60}|(?:meet|visit|start|run|leave) [\w' -]{2,60})",
    re.IGNORECASE,
)
_DID = re.compile(
    r"I (?P<what>(?:went|flew|travel+ed|drove|came back|returned) (?:to|from) [\w' -]{2,60}"
    r"|(?:got (?:married|engaged|promoted|divorced)|graduated|retired)(?: (?:from|to|in) [\w' -]{1,60})?"
    r"|(?:met|visited|saw|attended|finished|ran|completed|adopted|lost|sold|passed|failed|broke) [\w' -]{2,60})",
    re.IGNORECASE,
)
_ONCE = re.compile(
    r"\W*(?:(?:and|so|then|also|yesterday|today|tonight|this \w+|last \w+|(?:on|in) \w+),? )?(?:I|we) "
    r"(?:(?:just|also|finally|once|even|\w+ly) )?(?P<verb>[a-z]+)\b",
    re.IGNORECASE,
)
_NOT_PAST = frozenset(
    [
        "need",
        "feed",
        "speed",
        "breed",
        "bleed",
        "succeed",
        "exceed",
        "proceed",
        "heed",
        "weed",
        "shed",
        "wed",
    ]
)
_FORMS = (
    (_HAVE, "{person} has {what} {time}"),
    (_MY, "{person}'s {what} is {time}"),
    (_GOING, "{person} is {what} {time}"),
    (_WILL, "{person} will {what} {time}"),
    (_DID, "{person} {what} {time}"),
)
# "I attended her party": not self-contained without the sentence before.
_POINTS_BACK = re.compile(
    r"\b(?:he|him|his|she|her|hers|it|its|they|them|their|this|these|those|there|you|your)\b", re.I
)
_OWN = {
    "my": "their",
    "me": "them",
    "our": "their",
    "us": "them",
    "i": "they",
    "myself": "themselves",
}


def read_event(clause: str, time: Mention, person: str) -> tuple[str, str] | None:
    """(event, sentence in the third person with its date); None: the clause has another form."""
    rest = stripped_clause(f"{clause[: time.start]} {clause[time.end :]}")
    # "at 3 pm" belongs to the time, which is stored as a day.
    rest = re.sub(r"\s+at \d{1,2}(?::\d\d)?\s*(?:am|pm|o'clock)?$", "", rest, flags=re.IGNORECASE)
    for pattern, text in _FORMS:
        if (match := pattern.fullmatch(rest)) is not None:
            if _POINTS_BACK.search(match["what"]):
                return None
            what = " ".join(_OWN.get(word.casefold(), word) for word in match["what"].split())
            bare = re.sub(r"^(?:an?|the|their) ", "", what)
            return bare, text.format(person=person, what=what, time=dated(time.range))
    return None


def dated(span: TimeRange) -> str:
    """A range in words, the last day included: "on 2023-05-23", "from 2023-05-22 to 2023-05-28"."""
    if span.begins is None:
        return f"before {span.ends:%Y-%m-%d}" if span.ends else ""
    if span.ends is None:
        return f"since {span.begins:%Y-%m-%d}"
    days = (span.ends - span.begins).days
    if days <= 1:
        return f"on {span.begins:%Y-%m-%d}"
    if span.begins.day == span.ends.day == 1 and days >= 365:
        return (
            f"in {span.begins:%Y}"
            if days <= 366
            else f"from {span.begins:%Y} to {span.ends.year - 1}"
        )
    if span.begins.day == span.ends.day == 1 and days <= 31:
        return f"in {span.begins:%Y-%m}"
    last = span.ends.toordinal() - 1
    return f"from {span.begins:%Y-%m-%d} to {span.ends.fromordinal(last):%Y-%m-%d}"


def tells_event(text: str) -> bool:
    """Whether a sentence tells what the person did once: "I met Ann in the park". That stays true."""
    found = _ONCE.match(text)
    if found is None:
        return False
    verb = found["verb"].casefold()
    return verb in BASE_FORMS or (verb.endswith("ed") and verb not in _NOT_PAST)
