"""Extract claims from turns by a model (`fine`), checked against the turns.

A small model invents things, so each item is checked against its source (`support`): most of its
words, and every number and name, must be there, in a statement with the same negation.  Attributes are
the same as those of rules (`english.attributes`).

Sources: memory extraction as in Mem0 (arXiv 2504.19413); the check against the source as in our
self-study (`parametric.training.study`).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from datetime import datetime

from pydantic import ValidationError

from memos_vllm.cube.model import Claim, Item, ItemType
from memos_vllm.errors import Unavailable
from memos_vllm.plaintext.english.attributes import canonical, relative
from memos_vllm.plaintext.english.instructions import is_instruction
from memos_vllm.plaintext.english.times import TimeRange, find_times
from memos_vllm.plaintext.reader.support import Source, is_negated, is_stated, words_and_pairs
from memos_vllm.plaintext.reader.written import (
    LONGEST_REPEATED,
    NOT_MEANT,
    SCHEMA,
    Answer,
    Written,
    alone,
    continued,
)
from memos_vllm.prompt.quoting import Escape
from memos_vllm.prompt.sentences import EMPTY, names_in
from memos_vllm.writer.base import Ask, Writer

_WINDOW = 4  # turns in one ask
_LONGEST_TURN = 2000  # characters shown of one
_TOKENS = 512
_CONFIDENCE = 0.7
_TYPES = {
    "likes": ItemType.PREFERENCE,
    "dislikes": ItemType.PREFERENCE,
    "reply": ItemType.PREFERENCE,
    "event": ItemType.EVENT,
}
_NO_ATTRIBUTE = frozenset(("family", "pet", "health", "hobby", "event", "reply", "other"))
_PERSON = frozenset(
    re.findall(
        r"\S+",
        "i me my we us our user speaker self myself ourselves ich mich wir uns je moi nous on yo nosotros eu nós io noi я мы 我 我们 私 僕 俺 나 저 मैं أنا 用户 用戶 使用者 "
        "ユーザー 사용자 usuario usuaria usuário usuária utilisateur utilisatrice nutzer nutzerin benutzer utente "
        "пользователь gebruiker användaren użytkownik",
    )
)
"""Words by which a model means the person."""
_THE_USER = re.compile(r"\b(?:the )?user\b", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, slots=True)
class Extraction:
    items: list[Item]
    dropped: int = 0
    """Number of items that the model wrote and the turns do not support."""
    failed: str | None = None
    """Why the model's answer is unusable; `items` is empty then."""


def read_fine(
    turns: Sequence[Item],
    person: str,
    writer: Writer,
    escape: Escape,
    said_so_far: Sequence[Item] = (),
    after: str | None = None,
) -> Extraction:
    """Extract the person's claims from turns by a model.

    Args:
        turns: in order; the assistant's are shown, for the meaning of "yes", and support no claim.
        escape: breaks up the tokenizer's control strings in the shown text.
        said_so_far: known items; the same claims are left out.
        after: id of the request whose conversation ends with the turns; a writer that still has its
            prompt continues it.
    """
    if any(is_instruction(turn.text) for turn in turns) or not _is_short(turns, person):
        # The model would read behind words that try to command it, or miss a long message.
        after = None
    windows = _windows(turns, person, _WINDOW if after is None else max(1, len(turns)))
    if not windows:
        return Extraction([])
    asks = [_ask(window, person, escape, after) for window in windows]
    try:
        written = [Answer.model_validate_json(a) for a in writer.write(asks, lambda count: None)]
    except Unavailable as error:
        return Extraction([], failed=f"the model does not answer: {error}")
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        return Extraction(
            [], failed=f"the model's answer has another form: {where} {problem['msg']}"
        )
    return checked(list(zip(windows, written, strict=True)), person, said_so_far)


def checked(
    answers: Sequence[tuple[Sequence[Item], Answer]], person: str, said_so_far: Sequence[Item]
) -> Extraction:
    """Items of the answers that the turns support and that are not known yet."""
    known = {_key(item.claim) for item in said_so_far if item.claim}
    found: dict[str, Item] = {}
    dropped = 0
    for window, answer in answers:
        own = [turn for turn in window if _is_own(turn, person)]
        sources = [(turn, Source(turn.text)) for turn in own]
        for one in answer.items:
            item = None if answer.kind in NOT_MEANT else supported(one, sources, person)
            if item is None or item.claim is None:
                dropped += 1
            elif (ended := _ended(one, item, known)) is not None:
                found.setdefault(item.text.casefold(), ended)
            elif item.claim.attribute is None or _key(item.claim) not in known:
                found.setdefault(item.text.casefold(), item)
    return Extraction(list(found.values()), dropped)


def _key(claim: Claim) -> tuple[str | None, str | None]:
    return claim.attribute, claim.value


def _windows(turns: Sequence[Item], person: str, size: int) -> list[Sequence[Item]]:
    """The turns in windows, without instructions; only windows with a turn of the person."""
    shown = [turn for turn in turns if not is_instruction(turn.text)]
    windows = [shown[start : start + size] for start in range(0, len(shown), size)]
    return [window for window in windows if any(_is_own(turn, person) for turn in window)]


def _is_short(turns: Sequence[Item], person: str) -> bool:
    return all(len(turn.text) <= LONGEST_REPEATED for turn in turns if _is_own(turn, person))


def _is_own(turn: Item, person: str) -> bool:
    return turn.speaker == person and turn.type is ItemType.EPISODE


def _ask(window: Sequence[Item], person: str, escape: Escape, after: str | None) -> Ask:
    lines = "\n".join(f"[{turn.speaker or '?'}] {turn.text[:_LONGEST_TURN]}" for turn in window)
    own = [turn.text[:_LONGEST_TURN] for turn in window if _is_own(turn, person)]
    return Ask(
        alone(person, lines, escape),
        _TOKENS,
        schema=SCHEMA,
        after=after,
        instruction=continued(own, escape) if after is not None else None,
    )


def supported(one: Written, sources: Sequence[tuple[Item, Source]], person: str) -> Item | None:
    """The item with its source; None: no turn of the person states it, or it is an instruction.

    Args:
        sources: turns of the person.
    """
    everything = f"{one.subject} {one.relation} {one.value} {one.text}"
    if is_instruction(everything) or "\x00" in everything or "?" in one.text:
        return None
    if one.holds == "maybe" or not one.text.strip():
        return None
    subject = one.subject.strip()
    if subject.casefold().removeprefix("the ") in _PERSON:
        subject = person
    trimmed = {"relation": one.relation.strip().casefold(), "subject": subject}
    trimmed |= {"text": one.text.strip(), "value": one.value.strip()}
    one = one.model_copy(update=trimmed)
    items = (_item(one, turn, source, person) for turn, source in sources)
    return next((item for item in items if item is not None), None)


def _item(one: Written, turn: Item, source: Source, person: str) -> Item | None:
    """The item, if this turn states it."""
    if source.copies(one.text):
        if source.is_fragment(one.text):
            return None
        one = _of_copy(one, source, person)
    else:
        one = one.model_copy(update={"text": _THE_USER.sub(lambda _: person, one.text)})
        if not _supports(source, one, person):
            return None
    about = f"{one.subject} {one.relation}"
    if not one.subject or not is_stated(source, one.text, one.value, about):
        return None
    if not _says_more(one, turn.time):
        return None
    return Item(
        type=_TYPES.get(one.relation, ItemType.FACT),
        text=one.text,
        speaker=turn.speaker,
        time=turn.time,
        session=turn.session,
        source=turn.source,
        claim=_claim(one, turn, person),
    )


def _of_copy(one: Written, source: Source, person: str) -> Written:
    """A copied item without what the turn lacks: its words are the person's own, but what the model says of
    them may be a translation."""
    update = {"value": one.value if source.has_all(one.value, "") else ""}
    if one.subject != person and not source.has_all(one.subject, ""):
        update["subject"] = source.owner_of(one.text, person)
        if update["subject"] == person:
            update["relation"] = "other"  # of whom or what the model wrote it is unknown
    return one.model_copy(update=update)


def _says_more(one: Written, said_at: datetime | None) -> bool:
    """Whether a text says more than a time ("since May")."""
    text = one.text
    for mention in find_times(text, said_at) if said_at is not None else ():
        text = text.replace(mention.text, " ")
    words, pairs = words_and_pairs(text)
    return bool(pairs) or any(word not in EMPTY and len(word) > 1 for word in words)


def _supports(source: Source, one: Written, person: str) -> bool:
    """Whether the turn has most words of the item, and its value, subject, names and numbers."""
    about = f"{one.subject} {person} {' '.join(_PERSON)}"
    return (
        bool(one.value.strip() or source.has_most(one.text, about))
        and source.has_most(f"{one.text} {one.value}", about)
        and source.has_all(one.value, about)
        and source.has_all(one.subject, f"{person} {person}s")
        and source.has_numbers(f"{one.text} {one.value} {one.when}", about)
        and source.has_names(one.text, about)
    )


def _claim(one: Written, turn: Item, person: str) -> Claim:
    kind = _TYPES.get(one.relation, ItemType.FACT)
    span = _when(one, turn.text, turn.time)
    attribute, value = _property(one, person)
    return Claim(
        subject=one.subject if attribute is None else person,
        attribute=attribute,
        value=value,
        begins=span.begins if span else None,
        ends=span.ends if span and (kind is ItemType.EVENT or span.begins is None) else None,
        confidence=_CONFIDENCE,
        sources=[turn.source] if turn.source else [],
        last_seen=turn.time,
        entities=names_in([f". {one.text}"])[:20],
    )


def _property(one: Written, person: str) -> tuple[str | None, str | None]:
    """(attribute, value); no attribute where a newer statement must not supersede this one.

    Those are negations ("does not live in Paris" ends no other home) and statements about others,
    except their names.
    """
    value = one.value.strip() or None
    if one.subject.casefold() != person.casefold():
        is_name = one.relation == "name" and value is not None and not is_negated(one.text)
        if not is_name or value is None or value.casefold() in one.subject.casefold():
            return None, value
        return f"{relative(one.subject)}.name", value
    negated = one.holds == "no" or is_negated(one.text)
    if one.relation in ("likes", "dislikes"):
        negated = negated or one.relation == "dislikes"
        return canonical("dislikes" if negated else "likes", value)
    if one.relation in _NO_ATTRIBUTE or value is None:
        return None, value
    if negated:
        return None, f"not {value}"
    return canonical(one.relation, value)


def _ended(one: Written, item: Item, known: set[tuple[str | None, str | None]]) -> Item | None:
    """The known claim as ended now, where the item negates it ("no longer lives in Paris")."""
    claim, value = item.claim, one.value.strip()
    if claim is None or claim.attribute is not None or claim.value != f"not {value}":
        return None
    attribute, value_ = canonical(one.relation, value)
    if (attribute, value_) not in known:
        return None
    over = {"attribute": attribute, "value": value_, "ends": item.time}
    return item.model_copy(update={"claim": claim.model_copy(update=over)})


def _when(one: Written, turn_text: str, said_at: datetime | None) -> TimeRange | None:
    """The time that the item and its source both name."""
    if said_at is None:
        return None
    ranges = {mention.range for mention in find_times(turn_text, said_at)}
    for text in (one.when, one.text):
        for mention in find_times(text, said_at):
            if mention.range in ranges:
                return mention.range
    return None
