"""Split text into sentences: abbreviations, initials and numbers do not end one; any script.

A full stop ends a sentence only before white space, and not behind a title (`Dr.`), an abbreviation
(`e.g.`), an initial (`J. R. Tolkien`) or `no.` before a number.  Marks of scripts that write no space
between sentences (`。`, `।`, `؟`) end one anywhere.  Each line is split for itself, without its bullet.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_BULLET = re.compile(r"\s*(?:[-*+\u2022\u2023\u25e6\u25aa\u2043\u2013\u2014]|\(?\d{1,3}[.)])\s+")
_CLOSING = r"[\"'\u201d\u2019\u00bb)\]\u300d\u300f\uff09\u3011]*"
# Sentence marks that need no white space behind them: Chinese and Japanese, Devanagari, Arabic, Urdu,
# Ethiopic, Armenian, Khmer, Burmese.
_ANYWHERE = (
    r"[\u3002\uff0e\uff01\uff1f\uff61\u0964\u0965\u061f\u06d4\u1362\u1367\u0589\u17d4\u104a\u104b]+"
)
_MARKS = r".!?\u2026\u203c\u2047-\u2049"
_BORDER = re.compile(
    rf"(?P<anywhere>{_ANYWHERE}{_CLOSING})\s*+"
    rf"|(?<![{_MARKS}])(?P<mark>[{_MARKS}]++)(?P<closing>{_CLOSING}+)(?P<space>\s++)"
)
_LONGEST_TOKEN = 64  # characters; no abbreviation is longer
_LAST_TOKEN = re.compile(r"[^\s(\[\"\u201c\u00ab]+\Z")
# Never the last word of a sentence: a name or another phrase follows.
_BEFORE_A_NAME = frozenset(
    [
        "dr",
        "mr",
        "mrs",
        "ms",
        "mx",
        "prof",
        "st",
        "ste",
        "sgt",
        "capt",
        "cpt",
        "lt",
        "col",
        "gen",
        "cmdr",
        "rev",
        "hon",
        "fr",
        "sr.",
        "pres",
        "gov",
        "sen",
        "rep",
        "mt",
        "ft",
        "messrs",
        "mme",
        "mlle",
        "hr",
        "fr.",
        "frau",
        "herr",
        "sra",
        "srta",
        "dña",
        "dipl",
        "ing",
        "e.g",
        "i.e",
        "cf",
        "viz",
        "vs",
        "approx",
        "ca",
        "esp",
        "incl",
        "resp",
        "bzw",
        "z.b",
        "d.h",
        "u.a",
        "p.ej",
    ]
)
# Abbreviations before a number or date: "no. 5", "p. 12", "Jan. 3".
_BEFORE_A_NUMBER = frozenset(
    [
        "no",
        "nos",
        "nr",
        "num",
        "p",
        "pp",
        "fig",
        "vol",
        "ch",
        "sec",
        "art",
        "op",
        "ed",
        "ver",
        "v",
        "apt",
        "rm",
        "ext",
        "tel",
        "jan",
        "feb",
        "mar",
        "apr",
        "jun",
        "jul",
        "aug",
        "sep",
        "sept",
        "oct",
        "nov",
        "dec",
    ]
)
# Abbreviations that may end a sentence: they do before a word that begins one.
_EITHER = frozenset(
    [
        "jr",
        "sr",
        "inc",
        "ltd",
        "co",
        "corp",
        "llc",
        "bros",
        "dept",
        "univ",
        "assn",
        "etc",
        "al",
        "est",
        "min",
        "max",
        "hr",
        "hrs",
        "oz",
        "lb",
        "lbs",
        "ave",
        "blvd",
        "rd",
        "sq",
        "a.m",
        "p.m",
        "ph.d",
        "m.d",
        "b.a",
        "b.sc",
        "m.a",
        "m.sc",
        "mba",
        "u.s",
        "u.k",
        "u.s.a",
        "d.c",
        "n.y",
        "l.a",
        "d.o",
        "j.d",
        "ed.d",
    ]
)
_STARTERS = frozenset(
    [
        "i",
        "i'm",
        "i've",
        "i'd",
        "i'll",
        "we",
        "we're",
        "we've",
        "it",
        "it's",
        "he",
        "she",
        "they",
        "you",
        "my",
        "our",
        "his",
        "her",
        "their",
        "your",
        "the",
        "this",
        "that",
        "these",
        "those",
        "there",
        "then",
        "but",
        "and",
        "so",
        "or",
        "if",
        "when",
        "what",
        "where",
        "who",
        "why",
        "how",
        "do",
        "does",
        "did",
        "is",
        "are",
        "can",
        "could",
        "would",
        "please",
        "also",
        "now",
        "not",
        "no",
        "yes",
        "a",
        "an",
        "in",
        "on",
        "at",
        "for",
    ]
)


def split_sentences(text: str) -> list[str]:
    """Sentences in order, without surrounding white space and bullets; none is empty."""
    found = (part.strip() for line in text.splitlines() for part in _of_line(line))
    return [part for part in found if part]


def _of_line(line: str) -> Iterator[str]:
    bullet = _BULLET.match(line)
    begins = bullet.end() if bullet is not None else 0
    for border in _BORDER.finditer(line, begins):
        if border["anywhere"] is None and not _ends_a_sentence(line, begins, border):
            continue
        yield line[begins : border.end()]
        begins = border.end()
    yield line[begins:]


def _ends_a_sentence(line: str, begins: int, border: re.Match[str]) -> bool:
    rest = line[border.end() : border.end() + _LONGEST_TOKEN]
    if not rest:
        return True
    mark = border["mark"]
    is_lower = rest[0].islower()
    if mark != ".":
        # "Really?" he said; "well... maybe"
        return not (is_lower and (bool(border["closing"]) or mark[-2:] == ".." or mark == "\u2026"))
    token = _LAST_TOKEN.search(line, max(begins, border.start() - _LONGEST_TOKEN), border.start())
    word = token.group() if token is not None else ""
    return _full_stop_ends(word, rest, border.start() - begins == len(word))


def _full_stop_ends(word: str, rest: str, is_alone: bool) -> bool:
    """Whether the full stop behind a word, with white space and `rest` behind it, ends a sentence."""
    folded = word.casefold()
    if folded in _BEFORE_A_NAME:
        return folded in ("st", "mt", "ft") and _begins_a_sentence(rest) and not is_alone
    if folded in _BEFORE_A_NUMBER and rest[0].isdigit():
        return False
    if folded in _EITHER:
        return _begins_a_sentence(rest)
    if len(word) == 1 and word.isalpha() and word.isupper() and word != "I":
        return not rest[0].isupper() or _begins_a_sentence(rest)  # an initial
    if re.fullmatch(r"(?:[^\W\d_]\.)+[^\W\d_]", word):
        return _begins_a_sentence(rest)  # "J.R.", "U.N."
    return True


def _begins_a_sentence(rest: str) -> bool:
    first = re.match(r"[\w']+", rest.replace("\u2019", "'"))
    return first is not None and first[0][0].isupper() and first[0].casefold() in _STARTERS
