"""English lexicon for search: irregular forms, named times, question marks, stop words.

Items and questions in another language match none of these; the rest of search works for them.
"""

from __future__ import annotations

import dataclasses
import re

MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")

# "may" and "march" are also verbs: as months they begin with a capital.
_MONTH = re.compile(
    rf"\b(?:(?i:{'|'.join(name for name in MONTHS if name not in ('may', 'march'))})|May|March)\b"
)
_YEAR = re.compile(r"\b(?:19|20)\d\d\b")
_DAY = re.compile(r"\b(\d{1,2})(?:st|nd|rd|th)?\b")
_ASKS_WHEN = re.compile(
    r"^\W*(?:when|since when|how long|(?:in |on )?(?:what|which) (?:year|month|week|day|date|time))\b",
    re.IGNORECASE,
)
_NAMES_TIME = re.compile(
    r"\b(?:yesterday|today|tonight|tomorrow|ago|last|next|recently|since|weeks?|weekends?|months?|years?|"
    rf"days?|{'|'.join(name for name in (*MONTHS, *_DAYS) if name not in ('may', 'march'))}|"
    r"(?:19|20)\d\d|this (?:morning|summer|autumn|fall|winter|spring))\b",
    re.IGNORECASE,
)
_ASKS_FOR_REPLY = re.compile(
    r"\b(?:you|assistant) (?:\w+ )?(?:said|told|recommended|suggested|mentioned|gave|listed|provided|explained|wrote"
    r"|advised|described|shared|say|tell|recommend|suggest|mention|give|list|provide|explain|write|advise|describe"
    r"|share)\b"
    r"|\byour (?:\w+ )?(?:suggestions?|recommendations?|advice|list|answers?|reply|replies|responses?)\b"
    r"|\b(?:previous|last|earlier|past) (?:chat|conversation|discussion|session)\b"
    r"|\bwe (?:talked|discussed|chatted|spoke)\b|\bremind me\b",
    re.IGNORECASE,
)
_LONGEST_NOTE = 600  # characters
_NOTE_AT_END = re.compile(r"\s*\[[^\[\]]*\]\s*$")


@dataclasses.dataclass(frozen=True, slots=True)
class NamedTime:
    """Month, year and day of the month that a question names."""

    month: int | None
    year: int | None
    day: int | None


def named_time(question: str) -> NamedTime | None:
    """Parse the first month and year of a question; None: it names neither."""
    month, year = _MONTH.search(question), _YEAR.search(question)
    if month is None and year is None:
        return None
    day = _DAY.search(_YEAR.sub(" ", question)) if month else None
    return NamedTime(
        MONTHS.index(month[0].lower()) + 1 if month else None,
        int(year[0]) if year else None,
        int(day[1]) if day else None,
    )


def asks_when(question: str) -> bool:
    """Whether the question asks for a time."""
    return _ASKS_WHEN.search(question) is not None


def asks_for_reply(question: str) -> bool:
    """Whether the question is about what the assistant said: "what did you recommend?"."""
    return _ASKS_FOR_REPLY.search(question) is not None


def names_time(text: str) -> bool:
    """Whether the text names a time: a date, or `yesterday`, `last week`."""
    return _NAMES_TIME.search(text) is not None


def is_question(text: str) -> bool:
    """Whether the text ends with a question mark, before a note in brackets (an image)."""
    return _NOTE_AT_END.sub("", text[-_LONGEST_NOTE:].rstrip()).rstrip().endswith("?")


_IRREGULAR = """
become became/begin began begun/break broke broken/bring brought/build built/buy bought/catch caught/
choose chose chosen/come came/deal dealt/draw drew drawn/drink drank drunk/drive drove driven/
eat ate eaten/fall fell fallen/feel felt/fight fought/find found/fly flew flown/forget forgot forgotten/
forgive forgave forgiven/freeze froze frozen/get got gotten/give gave given/go went gone/
grow grew grown/hang hung/hear heard/hide hid hidden/hold held/keep kept/know knew known/lead led/
learn learnt/leave left/lend lent/lose lost/make made/mean meant/meet met/pay paid/ride rode ridden/
ring rang rung/rise rose risen/run ran/say said/see saw seen/seek sought/sell sold/send sent/
shake shook shaken/shine shone/show shown/sing sang sung/sit sat/sleep slept/speak spoke spoken/
spend spent/stand stood/steal stole stolen/stick stuck/strike struck/swim swam swum/take took taken/
teach taught/tear tore torn/tell told/think thought/throw threw thrown/understand understood/
wake woke woken/wear wore worn/win won/write wrote written/
child children/person people/man men/woman women/foot feet/mouse mice/wife wives
"""
BASE_FORMS = {
    form: base
    for entry in _IRREGULAR.replace("\n", "").split("/")
    for base, *forms in [entry.split()]
    for form in forms
}
"""`went` → `go`: irregular forms, which stemming does not unify."""

_FUNCTION_WORDS = """
a an the this that these those i me my myself we our ours ourselves you your yours yourself yourselves
he him his himself she her hers herself it its itself they them their theirs themselves
who whom what which when where why how
am is are was were be been being have has had having do does did doing will should can now
of at by for with about against between into through during before after above below to from up down
in out on off over under again further then once here there and but if or because as until while
all any both each few more most other some such no nor not only own same so than too very just don
"""
# Tokens have no apostrophe: "aren't" is two tokens.
_HALVES_OF_CONTRACTIONS = """
s t d ll m o re ve y ma ain aren couldn didn doesn hadn hasn haven isn mightn mustn needn shan shouldn
wasn weren won wouldn
"""
STOP_WORDS = frozenset((_FUNCTION_WORDS + _HALVES_OF_CONTRACTIONS).split())
"""Tokens without content, pronouns and question words included."""
