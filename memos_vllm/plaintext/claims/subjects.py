"""Whom a sentence is about, and whether it tells of a change, by lists of words of eight languages.

The lists are in `words.json`.  A language without a list has neither relatives nor changes: its sentences
are never judged to replace others, unless a model judges.
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

from memos_vllm.plaintext.statements.features import words

_FILE = Path(__file__).parent / "words.json"
_ELISION = re.compile(r"^[dl]['\u2019]|['\u2019]s$")
_STOPS = ".,;:!?\u3001\u3002\uff0c\uff01\u0964"
_NO_BOUNDS = re.compile("[\u3040-\u30ff\u3400-\u9fff]")
_QUOTED = re.compile(
    '["\u201c\u201e\u00ab](?:[^"\u201d\u00bb\\s]+\\s+){2,}[^"\u201d\u00bb]+["\u201d\u201c\u00bb]'
    "|[\u300c\u300e\u201c][^\u300d\u300f\u201d]{6,}[\u300d\u300f\u201d]"
)
"""Three words or more in quotation marks; fewer are a name."""
_TOKENS = re.compile(r"[\w'\u2019\u0900-\u0dff-]+")


@functools.cache
def _lists() -> tuple[dict[str, str], dict[str, str], re.Pattern[str], re.Pattern[str]]:
    """Relatives by word, relatives by character, changes as words, changes in scripts without case."""
    tree = json.loads(_FILE.read_text(encoding="utf-8"))
    by_word = {word: who for who, listed in tree["relatives"].items() for word in listed}
    by_part = {part: who for who, listed in tree["relatives_inside"].items() for part in listed}
    phrases = [
        rf"\b{re.escape(each)}\b".replace("'", "['\u2019]").replace(r"\.\.\.", ".{1,40}")
        for each in sorted(tree["changes"], key=len, reverse=True)
    ]
    inside = [
        re.escape(each).replace(r"\.\.\.", ".{1,20}")
        for each in sorted(tree["changes_inside"], key=len, reverse=True)
    ]
    return (
        by_word,
        by_part,
        re.compile("|".join(phrases), re.IGNORECASE),
        re.compile("|".join(inside)),
    )


@functools.cache
def _repeats() -> re.Pattern[str]:
    tree = json.loads(_FILE.read_text(encoding="utf-8"))
    words_of = [rf"\b{re.escape(each)}\b" for each in tree["repeats"]]
    inside = [re.escape(each) for each in tree["repeats_inside"]]
    return re.compile("|".join(sorted(words_of + inside, key=len, reverse=True)), re.IGNORECASE)


@functools.cache
def _beside() -> re.Pattern[str]:
    tree = json.loads(_FILE.read_text(encoding="utf-8"))
    return _any_of([*tree["adds"], *tree["supposes"]])


@functools.cache
def _fiction() -> re.Pattern[str]:
    return _any_of(json.loads(_FILE.read_text(encoding="utf-8"))["fiction"])


@functools.cache
def _requests() -> re.Pattern[str]:
    return _any_of(json.loads(_FILE.read_text(encoding="utf-8"))["requests"])


@functools.cache
def _past() -> re.Pattern[str]:
    return _any_of(json.loads(_FILE.read_text(encoding="utf-8"))["past"])


def _any_of(listed: list[str]) -> re.Pattern[str]:
    """Words, in scripts without spaces parts of them; `^` and `$` are the ends of a clause."""
    forms = []
    for each in sorted(listed, key=len, reverse=True):
        plain = re.escape(each.strip("^$"))
        if not _NO_BOUNDS.search(each):
            plain = rf"(?<![\w\u0900-\u097f]){plain}(?![\w\u0900-\u097f])"
        head = rf"(?:^|[{_STOPS}]\s*)" if each[0] == "^" else ""
        forms.append(head + plain + (rf"(?=\s*(?:[{_STOPS}]|$))" if each[-1] == "$" else ""))
    return re.compile("|".join(forms), re.IGNORECASE)


@functools.cache
def _slots() -> dict[str, tuple[re.Pattern[str], re.Pattern[str]]]:
    tree = json.loads(_FILE.read_text(encoding="utf-8"))["slots"]
    return {
        slot: (
            re.compile("|".join(listed["holds"] + listed["changes"]), re.IGNORECASE),
            re.compile("|".join(listed["changes"]), re.IGNORECASE),
        )
        for slot, listed in tree.items()
    }


def changes_slot_of(new: str, old: str) -> bool:
    """Whether a sentence changes what another states about a thing of which a person has one: their home.

    "I moved to Madrid" and "I live in Paris" share no word.
    """
    return any(
        holds.search(old) is not None and changes.search(new) is not None
        for holds, changes in _slots().values()
    )


def relatives(text: str) -> frozenset[str]:
    """Relatives and acquaintances that the sentence names, by their English nouns; empty: the speaker."""
    by_word, by_part, _, _ = _lists()
    folded = text.casefold()
    found = {by_word[word] for word in words(folded) if word in by_word}
    for token in _TOKENS.findall(folded):
        if (word := _ELISION.sub("", token)) in by_word:
            found.add(by_word[word])
    found |= {who for part, who in by_part.items() if part in folded}
    return frozenset(found)


def without_relatives(text: str) -> str:
    """The text without the words that name relatives, which say nothing of what is told about them."""
    by_word, by_part, _, _ = _lists()
    kept = [word for word in words(text) if word not in by_word]
    for part in by_part:
        kept = [word.replace(part, "") for word in kept]
    return " ".join(kept)


def without_repeats(text: str) -> str:
    """The text without the words of a repetition: "again", "once more", "now"."""
    return _repeats().sub(" ", text)


def is_about_now(text: str) -> bool:
    """Whether a sentence may give a new value of something: it adds, supposes and tells of the past nothing.

    "I also speak Danish", "If I ever quit", "I used to live in Rome".
    """
    if _beside().search(text) is not None:
        return False
    return _past().search(text) is None or tells_change(text)


def is_fiction(text: str) -> bool:
    """Whether a sentence tells of a story or a game, or quotes what another says: it is on nothing of the person.

    "Let's pretend my cat is called Tofu", 'In the film she says "I live in Rome"'.
    """
    return _fiction().search(text) is not None or _QUOTED.search(text) is not None


def is_request(text: str) -> bool:
    """Whether a sentence asks the assistant for something: "Name a restaurant in Lisbon." """
    return _requests().search(text) is not None


def tells_change(text: str) -> bool:
    """Whether a sentence says that something has changed, ended or is new: "no longer", "moved", "now"."""
    _, _, phrases, inside = _lists()
    return phrases.search(text) is not None or inside.search(text) is not None
