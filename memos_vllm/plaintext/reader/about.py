"""Whom and what a clause is about, in ten languages: people by their relation, content words, topics.

No parser: pronouns, possessives and words of kinship tell the subject, in their order; conjunctions and
verbs of saying move it.  What it cannot tell is left unknown, and the caller decides with less.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping

from memos_vllm.plaintext.reader import vocabulary as words
from memos_vllm.plaintext.reader.wording import (
    CONCEPTS,
    EAST,
    EASTERN,
    EASTERN_NEGATION,
    FUNCTION,
    HANGUL,
    KIN,
    NEGATION,
    ONLY_IN,
    PARTICLE,
    SELF_WORDS,
    THIRD,
    YOU,
    Word,
    by_length,
    west,
    words_of,
)

SELF = "self"
_RUN = re.compile(r"[\u30a0-\u30ff]+|[\u3400-\u9fff\u3005]+")
_HIRAGANA_RUN = re.compile(r"[\u3040-\u309f]{2,}")
_POSSESSIVE = re.compile(
    r"(?:my|our|your|his|her|their|dein\w*|ton|ta|tes|tu|tus|su|sus|tuo|tua|suo|sua|teu|seu|\u0442\u0432\u043e\w+|mein\w*|unser\w*|mon|ma|mes|notre|nos|mi|mis|mio|mia|miei|mie|nostr[oa]|meu|minha|meus|minhas|noss[oa]"
    r"|\u043c\u043e\w+|\u0443)$"
)
_AND = re.compile(
    r"\s*(?:,|and|und|et|y|e|\u0438|\u548c|\u3068|\uc640|\uacfc)?\s*(?:and|und|et|y|e|\u0438|\u548c|\u3068|\uc640|\uacfc)\s*",
    re.IGNORECASE,
)
_WHO = re.compile(
    r"\s*,?\s*(?:who|whom|which|that|der|die|das|qui|que|che|\u043a\u043e\u0442\u043e\u0440\w+)\b",
    re.IGNORECASE,
)
_INABILITY = re.compile(
    r"\b(?:can't|cannot|can not|mustn't|must not|shouldn't|should not)\s+(?:take|eat|have|tolerate|drink|touch|use)\b"
    r"|\bvertr[a\u00e4]g\w*\b.{0,20}\b(?:kein\w*|nicht)\b|\b(?:kein\w*|nicht)\b.{0,30}\bvertragen\b|\bne\s+(?:peux|supporte|tol\u00e8re)\b.{0,20}\bpas\b"
    r"|\bno\s+(?:puedo\s+(?:tomar|comer)|tolero)\b|\bnon\s+(?:posso\s+(?:prendere|mangiare)|tollero)\b|\bn\u00e3o\s+(?:posso\s+(?:tomar|comer)|tolero)\b"
    r"|\bне\s+(?:переношу|могу\s+(?:есть|принимать))|\u4e0d\u80fd(?:\u5403|\u7528|\u559d)",
    re.IGNORECASE,
)
_NAME_BEGINS = re.compile(r"([A-Z\u00c0-\u00de][\w-]+)(?:'s)?\s")
_NO_NAME = frozenset(
    re.findall(
        r"\w+",
        "the a an this that these those if when while what who where why how there it i my and but so yes no ok please",
    )
)


@dataclasses.dataclass(frozen=True)
class Teller:
    """The speaker of a text, and the names that stand for people."""

    role: str = SELF
    """`self`, `assistant`, or the name of another speaker."""
    own_names: frozenset[str] = frozenset()
    kin_names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """`anna` → `sister`."""


@dataclasses.dataclass(frozen=True)
class Clause:
    """A clause, read."""

    text: str
    language: str | None
    subjects: frozenset[str]
    """`self`, a relation (`sister`), or a name; empty: unknown."""
    is_explicit: bool
    """Whether the clause itself names its subject."""
    people: frozenset[str]
    """All that it mentions."""
    terms: tuple[Word, ...]
    """Content words; of scripts without spaces pairs of characters."""
    concepts: frozenset[str]
    is_negated: bool


def language_of(text: str) -> str | None:
    """The Western language with the most function words in a text; None: unknown."""
    said = [word.text for word in words_of(text)]
    votes = {name: sum(each in known for each in said) for name, known in FUNCTION.items()}
    best = max(votes, key=lambda name: votes[name])
    return best if votes[best] and list(votes.values()).count(votes[best]) == 1 else None


def read(
    text: str, teller: Teller, language: str | None = None, before: Clause | None = None
) -> Clause:
    """Read a clause.

    Args:
        language: of the whole text; None: by the clause.
        before: the clause in front of it, to whom "she" refers.
    """
    plain = text.replace("\u2019", "'").replace("\u2018", "'")
    language = language or language_of(plain)
    mentions = list(_mentions(plain, teller, language, before))
    subjects = _subjects(plain, mentions)
    explicit = bool(subjects)
    leaves_out = language not in ("en", "de", "fr")  # languages that need no pronoun
    if not subjects and before is not None and leaves_out and SELF not in before.subjects:
        subjects = before.subjects
    return Clause(
        text=plain,
        language=language,
        subjects=subjects,
        is_explicit=explicit,
        people=frozenset(subject for _, _, subject in mentions),
        terms=tuple(_terms(plain, language, teller)),
        concepts=frozenset(_concepts(plain)),
        is_negated=_is_negated(plain, language),
    )


def _behind(text: str, word: Word) -> str:
    return text[word.start + len(word.text) :]


def concepts_of(word: str) -> frozenset[str]:
    """Topics that a word belongs to: `address` → `home`."""
    return frozenset(_concepts(word))


def _mentions(
    text: str, teller: Teller, language: str | None, before: Clause | None
) -> Iterator[tuple[int, int, str]]:
    """(start, end, subject) of the people in a clause, in order."""
    found: list[tuple[int, int, str, bool]] = []
    first, second = (SELF, "") if teller.role == SELF else (teller.role, SELF)
    if teller.role not in (SELF, "assistant"):
        second = ""
    others = sorted(before.subjects - {SELF}) if before is not None else []
    third = others[0] if others else "other"
    said = words_of(text)
    for number, word in enumerate(said):
        subject = _subject_of(word, teller, language, first, second, third)
        if subject:
            behind = _behind(text, word)
            own = _POSSESSIVE.fullmatch(word.text) is not None or behind.startswith("'s")
            found.append((word.start, word.start + len(word.text), subject, own))
        elif number == 0 and (named := _named_first(text, said, language)):
            found.append((word.start, word.start + len(word.text), named, False))
    found += _eastern(text, first, second, third)
    found.sort()
    for position, (start, end, subject, own) in enumerate(found):
        following = found[position + 1] if position + 1 < len(found) else None
        if own and following is not None and following[2] in words.KIN:
            between = text[end : following[0]]
            if len(between.split()) <= 2 and len(between) < 30:
                continue  # "my sister", "my older sister"
        yield start, end, subject


def _subject_of(
    word: Word, teller: Teller, language: str | None, first: str, second: str, third: str
) -> str:
    text = word.text
    if text in teller.own_names:
        return SELF
    if text in teller.kin_names:
        return teller.kin_names[text]
    only = ONLY_IN.get(text)
    if only is not None and language is not None and language not in only:
        return ""
    for names, subject in (
        (KIN, KIN.get(text, "")),
        (SELF_WORDS, first),
        (YOU, second),
        (THIRD, third),
    ):
        if text in names:
            return subject
    return ""


def _named_first(text: str, said: list[Word], language: str | None) -> str:
    """A name that begins a clause without any first person: "Anna is allergic"."""
    match = _NAME_BEGINS.match(text.lstrip())
    if match is None or match[1].casefold() in _NO_NAME or match[1].casefold() in words.STOP:
        return ""
    if any(word.text in SELF_WORDS or word.text in KIN for word in said):
        return ""
    return match[1].casefold()


def _eastern(
    text: str, first: str, second: str, third: str
) -> Iterator[tuple[int, int, str, bool]]:
    if not (EAST.search(text) or HANGUL.search(text)):
        return
    taken = [False] * len(text)
    for word, kind in EASTERN:
        subject = {"self": first, "you": second, "third": third}.get(kind, kind)
        for match in re.finditer(re.escape(word), text):
            if any(taken[match.start() : match.end()]):
                continue
            if len(word) == 1 and HANGUL.match(word) and not _stands_alone(text, match):
                continue
            taken[match.start() : match.end()] = [True] * len(word)
            if subject:
                yield match.start(), match.end(), subject, kind == "self"


def _stands_alone(text: str, match: re.Match[str]) -> bool:
    """Whether a Korean syllable is a word, or has only a particle behind it."""
    if match.start() and HANGUL.match(text[match.start() - 1]):
        return False
    behind = re.match(r"[\uac00-\ud7af]*", text[match.end() :])
    return not behind or not behind[0] or PARTICLE.fullmatch(behind[0]) is not None


def _subjects(text: str, mentions: list[tuple[int, int, str]]) -> frozenset[str]:
    """The first person mentioned who does not only report, with those coordinated to them."""
    start = 0
    for report in _REPORT.finditer(text):
        if not any(mention[0] < report.start() for mention in mentions):
            continue
        that = _THAT.search(text, report.end())
        border = that.end() if that is not None else report.end()
        if any(mention[0] >= border for mention in mentions):
            start = border
    left = [mention for mention in mentions if mention[0] >= start]
    if not left:
        return frozenset()
    for position, (_, end, subject) in enumerate(left):
        if position and subject != SELF and _WHO.match(text, end):
            return frozenset({subject})  # "I have a son who is allergic"
    found, end = {left[0][2]}, left[0][1]
    for begin, stop, subject in left[1:]:
        between = re.sub(
            r"\b(?:my|mein\w*|mon|ma|mi|mio|mia|meu|minha|\u043c\u043e\w+)\b", "", text[end:begin]
        )
        if not _AND.fullmatch(between):
            break
        found.add(subject)
        end = stop
    return frozenset(found)


def _terms(text: str, language: str | None, teller: Teller) -> Iterator[Word]:
    first = True
    for word in words_of(text):
        if EAST.search(word.text):
            continue
        folded = (
            PARTICLE.sub("", word.text)
            if HANGUL.search(word.text) and len(word.text) > 1
            else word.text
        )
        is_first, first = first, False
        if (
            folded in _NO_TERM
            or word.text in _NO_TERM
            or folded in teller.own_names
            or (len(folded) < 2 and not folded.isdigit())
        ):
            continue
        yield Word(folded, word.start, word.is_capital and not is_first and language != "de")
    if EAST.search(text):
        yield from _pairs(text)


def _pairs(text: str) -> Iterator[Word]:
    """Pairs of characters of the runs of ideographs and katakana, without people and negation."""
    blank = _EASTERN_NO_TERM.sub(lambda match: " " * len(match[0]), text)
    runs = list(_RUN.finditer(blank)) or list(_HIRAGANA_RUN.finditer(blank))
    for run in runs:
        if len(run[0]) == 1:
            yield Word(run[0], run.start(), False)
        for position in range(len(run[0]) - 1):
            yield Word(run[0][position : position + 2], run.start() + position, False)


def _concepts(text: str) -> Iterator[str]:
    said = {word.text for word in words_of(text)}
    for name, (whole, prefixes, pieces) in CONCEPTS.items():
        in_words = said & whole or any(word.startswith(prefixes) for word in said)
        if in_words or any(piece in text for piece in pieces):
            yield name
    if _INABILITY.search(text):
        yield "health"


def _is_negated(text: str, language: str | None) -> bool:
    rest = _INABILITY.sub(" ", text)
    for word in words_of(rest):
        if word.text.endswith("n't"):
            return True
        only = ONLY_IN.get(word.text)
        if word.text in NEGATION and (only is None or language is None or language in only):
            return True
    return EAST.search(rest) is not None and any(each in rest for each in EASTERN_NEGATION)


_REPORT = re.compile(
    r"\b(?:" + "|".join(sorted(west(words.REPORTS), key=len, reverse=True)) + r")\b", re.IGNORECASE
)
_THAT = re.compile(r"\b(?:that|dass|que|che|\u0447\u0442\u043e)\b|\bqu'", re.IGNORECASE)
_EASTERN_NO_TERM = re.compile(
    "|".join(
        re.escape(word)
        for word, _ in by_length(
            (word, "") for word, _ in [*EASTERN, *((n, "") for n in EASTERN_NEGATION)]
        )
    )
    + r"|\u5bf9|\u5c0d|\u662f|\u5728|\u7684|\u6709|\u4e86"
)
_NO_TERM = (
    words.STOP
    | SELF_WORDS
    | YOU
    | THIRD
    | NEGATION
    | frozenset(KIN)
    | frozenset(word for word, _ in EASTERN)
)
