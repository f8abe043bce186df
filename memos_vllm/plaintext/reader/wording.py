"""Words of a text, and tables of the vocabulary by language."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable

import Stemmer

from memos_vllm.plaintext.english.lexicon import BASE_FORMS
from memos_vllm.plaintext.reader import vocabulary as words

_WORD = re.compile(r"[^\W_]+(?:[-'][^\W_]+)*'?")
_ELISION = re.compile(r"(j|l|d|qu|m|t|s|n|c)'(\w.*)", re.IGNORECASE)
EAST = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")
HANGUL = re.compile(r"[\uac00-\ud7af]")
PARTICLE = re.compile(
    r"(?:\uc73c\ub85c|\uc5d0\uc11c|\uc5d0\uac8c|\ud55c\ud14c|\uc740|\ub294|\uc774|\uac00|\uc744|\ub97c|\uc5d0|\uc758|\ub3c4|\ub85c|\uc640|\uacfc)$"
)
_stemmer = functools.lru_cache(maxsize=4096)(
    lambda word: Stemmer.Stemmer("english").stemWord(BASE_FORMS.get(word, word))
)


@dataclasses.dataclass(frozen=True, slots=True)
class Word:
    text: str
    """Casefolded."""
    start: int
    is_capital: bool


def words_of(text: str) -> list[Word]:
    found = []
    for match in _WORD.finditer(text):
        word, start = match[0], match.start()
        if (elided := _ELISION.fullmatch(word)) is not None and word.casefold() not in SELF_WORDS:
            found.append(Word(elided[1].casefold() + "'", start, False))
            word, start = elided[2], start + len(elided[1]) + 1
        folded = word.casefold()
        whole = folded.removesuffix("'s") in KIN
        parts = [word] if whole else re.split(r"-", word)
        for part in parts:
            is_capital = part[:1].isupper() and not part.isupper()
            folded = part.casefold().removesuffix("'s").rstrip("'")
            if folded:
                found.append(Word(folded, start, is_capital))
            start += len(part) + 1
    return found


def is_same_word(one: str, other: str) -> bool:
    """Whether two casefolded words are forms of one word: equal, of one stem, or of one long prefix."""
    if one == other:
        return True
    if EAST.search(one) or EAST.search(other):
        return False
    if HANGUL.search(one):
        one, other = (PARTICLE.sub("", each) if len(each) > 2 else each for each in (one, other))
        shared = _shared(one, other)
        return one == other or (shared >= 2 and shared >= 0.6 * max(len(one), len(other)))
    if _stemmer(one) == _stemmer(other):
        return True
    shared = _shared(one, other)
    return shared >= 4 and shared >= 0.6 * max(len(one), len(other))


def relation_of(word: str) -> str | None:
    """`mum` → `mother`; None: it is no word for a person or a pet."""
    return KIN.get(word.casefold())


def cues_of(concept: str) -> list[str]:
    """Beginnings of the words of a topic."""
    whole, prefixes, pieces = CONCEPTS[concept]
    return [each for each in (*whole, *prefixes, *pieces) if each != "\x00"]


def _shared(one: str, other: str) -> int:
    count = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        count += 1
    return count


def is_eastern(word: str) -> bool:
    """Whether a word is of a script without spaces between words."""
    return EAST.search(word) is not None


def has_no_case(word: str) -> bool:
    return EAST.search(word) is not None or HANGUL.search(word) is not None


def west(text: str) -> frozenset[str]:
    return frozenset(word for word in text.split() if not has_no_case(word))


def _concept(text: str) -> tuple[frozenset[str], tuple[str, ...], tuple[str, ...]]:
    every = text.split()
    whole = frozenset(word for word in every if not word.endswith("*") and not has_no_case(word))
    prefixes = tuple(word[:-1] for word in every if word.endswith("*"))
    return whole, prefixes or ("\x00",), tuple(word for word in every if has_no_case(word))


def by_length(found: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return sorted(found, key=lambda each: -len(each[0]))


ONLY_IN: dict[str, set[str]] = {}
for _language, _text in words.ONLY_IN.items():
    for _each in _text.split():
        ONLY_IN.setdefault(_each, set()).add(_language)
KIN = {
    word: name for name, text in words.KIN.items() for word in text.split() if not has_no_case(word)
}
SELF_WORDS, YOU, THIRD = (west(text) for text in (words.SELF, words.YOU, words.THIRD))
NEGATION = west(words.NEGATION)
EASTERN_NEGATION = tuple(word for word in words.NEGATION.split() if EAST.search(word))
FUNCTION = {name: frozenset(text.split()) for name, text in words.FUNCTION_WORDS.items()}
CONCEPTS = {name: _concept(text) for name, text in words.CONCEPTS.items()}
EASTERN = by_length(
    (word, kind)
    for kind, text in (
        *words.KIN.items(),
        ("self", words.SELF),
        ("you", words.YOU),
        ("third", words.THIRD),
    )
    for word in text.split()
    if has_no_case(word)
)
