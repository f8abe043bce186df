"""Extract claims from statements that people make about themselves, by English rules (`fast`).

Precision goes before recall: a clause that fits no form, or may not be earnest, gives no claim.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from memos_vllm.cube.model import Claim, Item, ItemType
from memos_vllm.plaintext.english.attributes import relative, slug, thing
from memos_vllm.plaintext.english.clauses import (
    LONGEST_CLAUSE,
    Clause,
    clauses,
    plain_form,
    stripped_clause,
)
from memos_vllm.plaintext.english.events import read_event
from memos_vllm.plaintext.english.forms import Form
from memos_vllm.plaintext.english.instructions import is_instruction
from memos_vllm.plaintext.english.moves import read_move
from memos_vllm.plaintext.english.statements import BIRTHDAY, FORMS, INTRODUCTION, NAMED_KIN
from memos_vllm.plaintext.english.things import names_a_thing
from memos_vllm.plaintext.english.times import Mention, TimeRange, find_times

__all__ = ["is_instruction", "read_claims"]

_CONFIDENCE = 0.9
_ASKED_CONFIDENCE = 0.8  # "remember that …" in no known form
_LONGEST_VALUE = 200
_NEAR = timedelta(days=92)
_REMEMBER = re.compile(
    r"(?:please )?(?:remember|don't forget|keep in mind)(?: that|:)? (?P<said>.+)", re.IGNORECASE
)
_FIRST_PERSON = re.compile(r"(?:I|my|we|our)\b", re.IGNORECASE)
_LIST = re.compile(r"\s*,\s*(?:and\s+)?|\s+and\s+|\s+or\s+")
_LONGEST_PART_WORDS = 3
_ADJECTIVE = re.compile(r"(?:ic|al|ive|ous|ful|less|ish|able|ible|ary|ed|ern)$")
# "I have a peanut allergy" and "I'm allergic to peanuts" are one.
_COUNTED_ALLERGEN = re.compile(
    r"\b(?:(?:pea|wal|hazel|chest|brazil )?nut|egg|cat|dog|almond|cashew|pecan|pistachio|mushroom|tomato|bee)$",
    re.IGNORECASE,
)
_ANY_CAPITAL = re.compile(r"[A-Z]")
_CAPITAL = re.compile(r"(?!I\b|My\b)[A-Z]")
_NO_NAME = frozenset(
    re.findall(
        r"\w+",
        "american australian austrian british canadian chinese danish dutch english finnish "
        "french german greek indian irish italian japanese korean mexican norwegian polish "
        "portuguese russian scottish spanish swedish swiss turkish ukrainian welsh catholic "
        "christian muslim jewish hindu buddhist atheist happy sorry fine good great ok okay back "
        "vegan vegetarian pregnant retired married single dead sick ill here sure glad sad tired hungry ready done monday tuesday wednesday thursday friday "
        "saturday sunday asap later ",
    )
)


def read_claims(turns: Sequence[Item], person: str) -> list[Item]:
    """Claims of the person about themselves, from their own turns only.

    A claim whose `ends` is the time of the message ends an older one with the same attribute and value.
    """
    found: dict[tuple[str | None, str], Item] = {}
    for turn in turns:
        if turn.speaker != person or turn.type is not ItemType.EPISODE or is_instruction(turn.text):
            continue
        for clause in clauses(turn.text):
            for item in _read(clause, turn, person):
                claim = item.claim
                assert claim is not None
                found[claim.attribute, item.text] = item  # a repeated statement is one claim
    return list(found.values())


def _read(clause: Clause, turn: Item, person: str) -> Iterator[Item]:
    asked = _REMEMBER.fullmatch(clause.text)
    statement = stripped_clause(asked["said"]) if asked is not None else clause.text
    times = find_times(statement, turn.time) if turn.time is not None else []
    items = list(_by_forms(statement, times, clause, turn, person))
    if not items and times and (event := read_event(statement, times[0], person)) is not None:
        what, text = event
        items = [_item(turn, person, ItemType.EVENT, None, what, text, times[0].range)]
    if not items and asked is not None and _FIRST_PERSON.match(statement):
        text = f"{person} asked to remember: {statement}"
        items = [_item(turn, person, ItemType.FACT, None, None, text, None, _ASKED_CONFIDENCE)]
    yield from items


def _by_forms(
    statement: str, times: Sequence[Mention], clause: Clause, turn: Item, person: str
) -> Iterator[Item]:
    if len(statement) > LONGEST_CLAUSE:
        return
    if (birthday := BIRTHDAY.fullmatch(statement)) is not None:
        yield from _birthday(birthday["value"], times, turn, person)
        return
    timeless, span = _without(statement, times)
    span = None if _is_near(span, turn.time) else span
    plain = plain_form(timeless)
    if not clause.is_past and (home := read_move(plain, turn.text)) is not None:
        text = f"{person} lives in {home}"
        yield _item(turn, person, ItemType.FACT, "home", home, text, span)
        return
    for form in FORMS if not clause.is_past else ():
        if (match := _matched(form, plain)) is not None:
            yield from _of_form(form, match, span, turn, person)
            return
    if (match := NAMED_KIN.fullmatch(statement)) is not None and _is_name(match["value"]):
        key = _kin(match)
        text = f"{person}'s {key} is called {match['value']}"
        yield _item(
            turn, person, ItemType.FACT, f"{relative(key)}.name", match["value"], text, None
        )
    elif (
        clause.is_greeted
        and (match := INTRODUCTION.fullmatch(statement)) is not None
        and _is_name(match["value"])
    ):
        text = f"{person}'s name is {match['value']}"
        yield _item(turn, person, ItemType.FACT, "name", match["value"], text, None)


def _matched(form: Form, plain: str) -> re.Match[str] | None:
    """The match of a form; of its casual pattern where the writer uses no capitals."""
    match = form.pattern.fullmatch(plain)
    capital = _ANY_CAPITAL if form.attribute in ("employer", "origin") else _CAPITAL
    if match is None and form.casual is not None and capital.search(plain) is None:
        match = form.casual.fullmatch(plain)
    return match


def _is_name(words: str) -> bool:
    first = words.split()[0]
    return first.casefold() not in _NO_NAME and not (len(first) > 2 and first.isupper())


def _is_near(span: TimeRange | None, said_at: datetime | None) -> bool:
    """Whether a state began shortly before the message, which then is its beginning.

    "I live in Oslo" on Monday, "I moved to Bergen last week" on Tuesday: the later message is newer.
    """
    if span is None or span.begins is None or said_at is None:
        return False
    aware = said_at if said_at.tzinfo else said_at.replace(tzinfo=UTC)
    return aware - _NEAR <= span.begins <= aware


def _without(statement: str, times: Sequence[Mention]) -> tuple[str, TimeRange | None]:
    """The clause without its time, and that time; unchanged unless it has exactly one."""
    if len(times) != 1:
        return statement, None
    rest = f"{statement[: times[0].start]} {statement[times[0].end :]}"
    return stripped_clause(rest), times[0].range


def _of_form(
    form: Form, match: re.Match[str], span: TimeRange | None, turn: Item, person: str
) -> Iterator[Item]:
    groups = match.groupdict()
    key = _kin(match) if groups.get("key") else ""
    said = _in_third_person(groups.get("said") or "")
    ends = form.is_over or not form.value
    if ends and turn.time is None:
        return
    for part in _values(form, " ".join((groups.get("value") or "").split())):
        attribute = form.attribute.format(value=thing(part), key=relative(key))
        if attribute == "reply.emoji":
            attribute = "reply.emojis"
        named = {"person": person, "value": part, "key": key, "said": said}
        text = form.text.format(**named, other=groups.get("other") or "")
        if part[:1].casefold() in tuple("aeio"):
            text = text.replace(f" a {part}", f" an {part}")
        value = form.value.format(value=part)
        item = _item(turn, person, form.type, attribute, value, text, None if ends else span)
        assert item.claim is not None
        if form.is_over:
            item.claim.ends = turn.time
        yield item
        if form.also is not None:
            also, text = form.also[0], form.also[1].format(person=person)
            yield _item(turn, person, form.type, also, None, text, None)


def _values(form: Form, value: str) -> list[str]:
    """Values that a clause claims: the parts of a list, those that are meant."""
    if not _is_meant(form, value):
        return []
    if form.attribute.startswith("allergy:") and (nut := _COUNTED_ALLERGEN.search(value)):
        value = f"{value}{'es' if nut[0].endswith('o') else 's'}"
    parts = _LIST.split(value) if form.is_list else [value]
    if any(len(part.split()) > _LONGEST_PART_WORDS for part in parts) or _share_a_word(parts):
        parts = [value]
    return [part for part in parts if len(part) <= _LONGEST_VALUE and _is_meant(form, part)]


def _share_a_word(parts: Sequence[str]) -> bool:
    """Whether parts of a list belong to one word: "overly fancy or expensive food", "using oil or butter"."""
    if len(parts) < 2:
        return False
    first, last = parts[0].split(), parts[-1].split()
    is_verb = first[0].endswith("ing") and len(first) > 1 and not last[0].endswith("ing")
    is_adjective = len(last) > len(first) and (
        _ADJECTIVE.search(last[0]) is not None or _ADJECTIVE.search(first[-1]) is not None
    )
    return is_verb or is_adjective or first[0].endswith("ly")


_THIRD = {
    **{"my": "their", "our": "their", "am": "is", "have": "has", "do": "does", "me": "them"},
    **{"i": "they", "work": "works", "eat": "eats"},
}


def _in_third_person(said: str) -> str:
    """Own words about oneself: "quit my job" → "quit their job"."""
    words = said.split()
    if words[:2] == ["do", "not"]:
        return " ".join(["does", *(_THIRD.get(w, w) if w == "my" else w for w in words[1:])])
    return " ".join(_THIRD.get(word.casefold(), word) for word in words)


def _is_meant(form: Form, value: str) -> bool:
    if form.attribute in ("name", "reply.address") or form.attribute.endswith(".name"):
        return not value or _is_name(value)
    if form.attribute.startswith("favourite."):
        return names_a_thing(value) or value.casefold().startswith(("the ", "my ", "our "))
    if "{value}" not in form.attribute:
        return True
    return bool(slug(value)) and names_a_thing(value)


def _kin(match: re.Match[str]) -> str:
    """Relation with its qualifier: "older sister", and "second cat" beside "cat"."""
    groups = match.groupdict()
    which = (groups.get("which") or "").casefold()
    key = " ".join(match["key"].casefold().split())
    return f"{which} {key}" if which and which not in ("new", "late") else key


def _birthday(value: str, times: Sequence[Mention], turn: Item, person: str) -> Iterator[Item]:
    if re.fullmatch(r"in (?:19|20)\d\d", value):
        text = f"{person} was born {value}"
        yield _item(turn, person, ItemType.FACT, "birth.year", value[3:], text, None)
    elif len(times) == 1 and re.search(r"\d", value) and times[0].text.endswith(value[-4:]):
        text = f"{person}'s birthday is {value}"
        yield _item(turn, person, ItemType.FACT, "birthday", value, text, None)
    elif (match := re.fullmatch(r"in (?P<place>[A-Z][\w' -]+)", value)) is not None and not times:
        text = f"{person} was born in {match['place']}"
        yield _item(turn, person, ItemType.FACT, "birthplace", match["place"], text, None)


def _item(
    turn: Item,
    person: str,
    kind: ItemType,
    attribute: str | None,
    value: str | None,
    text: str,
    span: TimeRange | None,
    confidence: float = _CONFIDENCE,
) -> Item:
    return Item(
        type=kind,
        text=text,
        speaker=turn.speaker,
        time=turn.time,
        session=turn.session,
        source=turn.source,
        claim=Claim(
            subject=person,
            attribute=attribute,
            value=value or None,
            begins=span.begins if span else None,
            ends=_end(kind, span, turn.time),
            confidence=confidence,
            sources=[turn.source] if turn.source else [],
            last_seen=turn.time,
            entities=_entities(value or ""),
        ),
    )


def _end(kind: ItemType, span: TimeRange | None, said_at: datetime | None) -> datetime | None:
    """End of validity: of an event its end; "I moved to Berlin last month" has none."""
    if span is None:
        return None
    if kind is ItemType.EVENT:
        return span.ends
    # "from 2015 to 2018" has ended; a past day or month is the beginning.
    long_over = span.begins and span.ends and said_at and (span.ends - span.begins).days > 366
    return span.ends if long_over and said_at and span.ends and span.ends < said_at else None


def _entities(value: str) -> list[str]:
    return list(dict.fromkeys(re.findall(r"\b[A-Z][\w'-]*(?: [A-Z][\w'-]*)*", value)))
