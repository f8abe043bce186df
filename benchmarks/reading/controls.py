"""Statements that look like changes and are none: what was said before them has to stay true."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from benchmarks.reading.corrections import (
    HELD_OUT,
    Talker,
    cells_of,
    corrections,
    end_of,
    followed_of,
    person,
    share,
    unrelated,
)

_LANGUAGES_CASES = corrections(name=HELD_OUT)


@dataclasses.dataclass(frozen=True, slots=True)
class Control:
    language: str
    kind: str
    """`other person`, `additional`, `past`, `hypothetical` or `other thing`"""
    fact: str
    later: str


def controls(quick: bool = False) -> list[Control]:
    found = [Control(*cells) for cells in cells_of("controls.txt")]
    return found[::12] if quick else found


def measure(talker: Talker, cases: Sequence[Control]) -> dict[str, Any]:
    """Shares of the facts that were ended, and that a search for them does not find."""
    rows = [_one(talker, number, case) for number, case in enumerate(cases)]
    result: dict[str, Any] = {"controls": len(rows)}
    for key in ("retired", "marked", "lost"):
        result[key] = share(row[key] for row in rows)
    return result


def _one(talker: Talker, number: int, case: Control) -> dict[str, bool]:
    who = person(f"control{number}")
    language = [each for each in _LANGUAGES_CASES if each.language == case.language]
    for text in unrelated(case.language, number % len(language), language):
        talker.say(who, text)
    talker.say(who, case.fact)
    talker.say(who, case.later)
    _, found = talker.served(who, case.fact)
    own = [each for each in found if each.recalled.item.text == case.fact]
    return {
        "retired": any(end_of(each) is not None for each in own),
        "marked": any(followed_of(each) is not None for each in own),
        "lost": not own,
    }
