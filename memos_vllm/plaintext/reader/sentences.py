"""Split text of any script into sentences and clauses, and put it together again without some of them.

Unlike `prompt.sentences`, nothing of the text is lost: white space, conjunctions and marks between the
parts are kept, so that the rest of a cut text reads as it was written.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator

_END = re.compile(
    r"(?<![.!?\u2026\u061f])[.!?\u2026\u061f]++[\"'\u201d\u2019\u00bb)\]]*+(?=\s|$)|[\u3002\uff01\uff1f]+[\u300d\u300f\u201d\uff09]*|\n+"
)
_ABBREVIATION = re.compile(
    r"(?:^|[\s(])(?:(?:dr|mr|mrs|ms|mx|prof|st|sr|sra|sta|jr|no|nr|vs|etc|approx|ca|z\.b|d\.h|u\.a|e\.g|i\.e|bzw|str"
    r"|mme|mlle|m|dott|sig|av|c|n|p|pp|vol|fig|inc|ltd|co|mt|ft|\u0443\u043b|\u0433|\u0434|\u0442\.\u0435)|[a-z\u0400-\u04ff])\.$",
    re.IGNORECASE,
)
_NUMBERED = re.compile(r"(?:^|\s)\d{1,2}\.$")
_SUBJECT = (
    r"(?:I|I'm|I've|I'd|my|we|our|he|she|they|his|her|their|it's|it is|you|your|ich|mein\w*|wir|unser\w*|er|ihr\w*|je|j'|mon|ma"
    r"|mes|nous|il|elle|ils|elles|son|sa|yo|mi|mis|nosotros|\u00e9l|ella|ellos|tu|io|noi|lui|lei|la mia|il mio|mia|mio|eu|meu"
    r"|minha|n\u00f3s|ele|ela|o meu|a minha|\u044f|\u043c\u044b|\u043c\u043e\u0439|\u043c\u043e\u044f|\u043c\u043e\u0451|\u043e\u043d|\u043e\u043d\u0430|\u043e\u043d\u0438|\u0443 \u043c\u0435\u043d\u044f)"
)
_DEFINITE = (
    r"(?:(?:the|der|die|das|le|la|les|el|los|las|il|lo|gli|o|a|os|as)\s[\w'-]+(?:\s[\w'-]+){0,4}\s"
    r"(?:is|are|was|were|has|have|will|starts|ends|ist|sind|war|hat|wird|est|sont|a|es|est\u00e1|son|\u00e8|sono|\u00e9|s\u00e3o)\b)"
)
_CONJUNCTION = r"(?:and|but|so|while|whereas|though|und|aber|denn|w\u00e4hrend|et|mais|y|pero|e|ma|mas|por\u00e9m|\u0438|\u0430|\u043d\u043e)"
_BORDER = re.compile(
    rf"(?<!\s)\s*+;\s+|(?<!\s)\s++[\u2013\u2014-]\s++(?={_SUBJECT}\b)|(?:,|(?<![\s,]))\s++{_CONJUNCTION}\s++(?={_SUBJECT}\b|{_DEFINITE})|,\s+(?={_SUBJECT}\b|{_DEFINITE})"
    r"|[\uff0c\u3001,]\s*(?:\u800c\u4e14|\u800c|\u4f46\u662f|\u4f46|\u6240\u4ee5|\u5e76\u4e14)?(?=\u6211|\u4ed6|\u5979|\u4f60)|[\uff0c\u3001](?=\u79c1|\u50d5|\u4ffa|\u606f\u5b50|\u5a18|\u592b|\u59bb|\u6bcd|\u7236|\u59c9|\u5144|\u5f1f|\u59b9)"
    r"|,\s+(?=\ub0b4|\ub098|\uc81c|\uc800|\uc6b0\ub9ac|\uadf8)",
    re.IGNORECASE,
)
_TAIL = re.compile(
    r"(?<![.!?\u2026\u3002\uff01\uff1f\u061f])[.!?\u2026\u3002\uff01\uff1f\u061f]++[\"'\u201d\u2019\u00bb)\]\u300d\u300f]*+$"
)
_SOLID = re.compile(r"\S")
_LONGEST_ABBREVIATION = 16  # characters, with what is in front of it


@dataclasses.dataclass(frozen=True, slots=True)
class Sentence:
    """`before + text` of all sentences, and the white space at the end, is the whole text."""

    before: str
    """White space in front of it."""
    text: str
    clauses: tuple[str, ...]
    borders: tuple[str, ...]
    """Text between the clauses: one less than clauses."""
    tail: str
    """Marks behind the last clause."""


def split(text: str, clauses: bool = True) -> list[Sentence]:
    """Sentences in order.

    Args:
        clauses: also split each into clauses with subjects of their own; else each is one clause.
    """
    return [
        _sentence(text[begin:start], text[start:end], clauses) for begin, start, end in _spans(text)
    ]


def without(text: str, sentences: list[Sentence], is_gone: Callable[[int, int], bool]) -> str:
    """The text without some clauses; a sentence that loses its first one begins with a capital.

    Args:
        is_gone: of (number of the sentence, number of its clause).
    """
    parts = []
    for number, sentence in enumerate(sentences):
        kept = [each for each in range(len(sentence.clauses)) if not is_gone(number, each)]
        if len(kept) == len(sentence.clauses):
            parts.append(sentence.before + sentence.text)
            continue
        if not kept:
            parts.append("\n" if "\n" in sentence.before else " " if sentence.before else "")
            continue
        made = sentence.clauses[kept[0]]
        if kept[0] and sentence.text[:1].isupper():
            made = made[:1].upper() + made[1:]
        for each in kept[1:]:
            made += sentence.borders[each - 1] + sentence.clauses[each]
        parts.append(sentence.before + made + sentence.tail)
    return re.sub(r"[ \t]+(?=\n|$)", "", re.sub(r" {2,}", " ", "".join(parts))).strip()


def _spans(text: str) -> Iterator[tuple[int, int, int]]:
    """(begin with white space, start, end) of each sentence."""
    begin, solid = 0, _SOLID.search(text)
    for match in _END.finditer(text):
        if solid is None:
            return
        end = match.end()
        if solid.start() >= end:
            continue
        if match[0] == "." and _is_short(text[max(begin, end - _LONGEST_ABBREVIATION) : end]):
            following = _SOLID.search(text, end)
            if following is not None:
                continue
        end = solid.start() + len(text[solid.start() : end].rstrip())
        yield begin, solid.start(), end
        begin, solid = end, _SOLID.search(text, end)
    if solid is not None:
        yield begin, solid.start(), len(text.rstrip())


def _is_short(piece: str) -> bool:
    """Whether the full stop at the end of a piece is that of an abbreviation or of a number."""
    return _ABBREVIATION.search(piece) is not None or _NUMBERED.search(piece) is not None


def _sentence(before: str, text: str, clauses: bool) -> Sentence:
    tail = _TAIL.search(text)
    end = tail.start() if tail is not None else len(text)
    parts, borders, start = [], [], 0
    for match in _BORDER.finditer(text, 0, end) if clauses else ():
        if match.start() > start:
            parts.append(text[start : match.start()])
            borders.append(match[0])
            start = match.end()
    parts.append(text[start:end])
    return Sentence(before, text, tuple(parts), tuple(borders), text[end:])
