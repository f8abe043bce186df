"""No pattern of the reading rules can backtrack exponentially.

`(?:A|AB|B)*` reads "ABAB…" in 2^n ways, all of which a failing match tries: one short message would hold a
thread for hours.  A repeated group is safe where its words decompose in one way only (the test of Sardinas
and Patterson for unique decodability).
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import sys
import time
from collections.abc import Iterator
from itertools import product
from re import _constants as ops  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

import pytest

import memos_vllm
from memos_vllm.cube.model import Item, ItemType
from memos_vllm.plaintext.reader.by_rules import read_claims
from memos_vllm.plaintext.reader.forgetting import read_orders

PACKAGES = ("memos_vllm.plaintext", "memos_vllm.prompt", "memos_vllm.governance")
MOST_WORDS = 600
UNBOUNDED = 8  # repeats that may hold so many copies count as unbounded
INSIDE = {ops.CATEGORY_SPACE: " ", ops.CATEGORY_DIGIT: "7", ops.CATEGORY_WORD: "w"}


def patterns() -> dict[str, str]:
    """All compiled patterns that modules hold, by where they stand."""
    for found in pkgutil.walk_packages(memos_vllm.__path__, "memos_vllm."):
        if found.name.startswith(PACKAGES):
            importlib.import_module(found.name)
    collected: dict[str, str] = {}
    for name, module in sorted(sys.modules.items()):
        if name.startswith(PACKAGES):
            for attribute, value in vars(module).items():
                for number, pattern in enumerate(_inside(value, 3)):
                    collected[f"{name}.{attribute}[{number}]"] = pattern.pattern
    return collected


def _inside(value: object, depth: int) -> Iterator[re.Pattern[str]]:
    if isinstance(value, re.Pattern) and isinstance(value.pattern, str):
        yield value
    elif depth and isinstance(value, (list, tuple, set, frozenset)):
        for each in value:
            yield from _inside(each, depth - 1)
    elif depth and isinstance(value, dict):
        for each in value.values():
            yield from _inside(each, depth - 1)


def repeats(tree: Any) -> Iterator[Any]:
    """Bodies of the repeats without a small bound, the nested ones too."""
    for op, argument in tree:
        for inner in _parts(op, argument):
            yield from repeats(inner)
        if op in (ops.MAX_REPEAT, ops.MIN_REPEAT) and argument[1] >= UNBOUNDED:
            yield argument[2]


def _parts(op: Any, argument: Any) -> list[Any]:
    if op in (ops.MAX_REPEAT, ops.MIN_REPEAT, ops.POSSESSIVE_REPEAT):
        return [argument[2]]
    if op is ops.SUBPATTERN:
        return [argument[3]]
    if op is ops.BRANCH:
        return list(argument[1])
    if op is ops.ATOMIC_GROUP:
        return [argument]
    return []


class TooMany(Exception):
    pass


def words(tree: Any) -> set[str]:
    """Some words of a group: each alternative, with and without its optional parts."""
    sets = [_words_of(op, argument) for op, argument in tree]
    count = 1
    for each in sets:
        count *= max(1, len(each))
    if count > MOST_WORDS:
        raise TooMany
    return {"".join(parts) for parts in product(*sets)}


def _words_of(op: Any, argument: Any) -> set[str]:
    if op is ops.LITERAL:
        return {chr(argument).lower()}
    if op is ops.NOT_LITERAL or op is ops.ANY:
        return {"w"}
    if op is ops.IN:
        return _of_class(argument)
    if op in (ops.MAX_REPEAT, ops.MIN_REPEAT, ops.POSSESSIVE_REPEAT):
        low, high, inner = argument
        once = words(inner)
        return ({""} if low == 0 else set()) | (once if high else {""})
    if op is ops.SUBPATTERN:
        return words(argument[3])
    if op is ops.ATOMIC_GROUP:
        return words(argument)
    if op is ops.BRANCH:
        return set().union(*(words(each) for each in argument[1]))
    return {""}  # anchors and looks around


def _of_class(argument: Any) -> set[str]:
    if argument[0][0] is ops.NEGATE:
        return {"w"}
    found = set()
    for op, value in argument:
        if op is ops.LITERAL:
            found.add(chr(value).lower())
        elif op is ops.RANGE:
            found |= {chr(value[0]).lower(), chr(value[1]).lower()}
        elif op is ops.CATEGORY:
            found.add(INSIDE.get(value, "w"))
    return found


def is_wild(tree: Any) -> bool:
    """Whether a part takes words of any number: it could take what the next copy of the group takes."""
    for op, argument in tree:
        if op in (ops.MAX_REPEAT, ops.MIN_REPEAT):
            inner = argument[2]
            if argument[1] >= UNBOUNDED and len(inner) == 1 and _spans_words(*inner[0]):
                return True
        if any(is_wild(part) for part in _parts(op, argument)):
            return True
    return False


def _spans_words(op: Any, argument: Any) -> bool:
    if op is ops.ANY:
        return True
    if op is not ops.IN or argument[0][0] is ops.NEGATE:
        return False
    found = _of_class(argument)
    return " " in found and "w" in found


def is_ambiguous(code: set[str]) -> str | None:
    """Where a sequence of the words can be read in two ways (Sardinas and Patterson, 1953)."""
    code = code - {""}
    rests = {b[len(a) :] for a in code for b in code if a != b and b.startswith(a)}
    seen: set[str] = set()
    while rests:
        if both := rests & code:
            return min(both)
        seen |= rests
        following = {b[len(a) :] for a in rests for b in code if b.startswith(a)}
        following |= {a[len(b) :] for a in rests for b in code if a.startswith(b)}
        rests = following - seen - {""}
    return None


PATTERNS = patterns()


def test_the_patterns_are_found() -> None:
    assert len(PATTERNS) > 150


@pytest.mark.parametrize("where", PATTERNS)
def test_no_repeated_group_reads_a_text_in_two_ways(where: str) -> None:
    found = []
    for body in repeats(parser.parse(PATTERNS[where])):
        try:
            if len(body) > 1 or body[0][0] in (ops.BRANCH, ops.SUBPATTERN):
                found.append("words of any number" if is_wild(body) else None)
                found.append(is_ambiguous(words(body)))
        except TooMany:
            continue
    assert [each for each in found if each is not None] == []


@pytest.mark.parametrize(
    "text", ["猫のことを忘れて" + "いいよ" * 40 + "x", "你可以" * 40 + "忘x", "请" * 300 + "忘"]
)
def test_an_order_that_repeats_its_particles_is_read_at_once(text: str) -> None:
    begun = time.process_time()
    read_orders(text)
    assert time.process_time() - begun < 1


@pytest.mark.parametrize("tail", [" instead of a now", " for me now", ", not a any more now"])
def test_a_statement_that_repeats_its_tail_is_read_at_once(tail: str) -> None:
    item = Item(type=ItemType.EPISODE, text=f"I live in Rome{tail * 16} x%", speaker="Ann")
    begun = time.process_time()
    read_claims([item], "Ann")
    assert time.process_time() - begun < 1


@pytest.mark.parametrize(
    ("pattern", "ambiguous"),
    [(r"(?:a|ab|b)*", True), (r"(?:a|ba)+", False), (r"(?:no(?:pe)?|pe)*x", True)],
)
def test_an_ambiguous_group_is_seen(pattern: str, ambiguous: bool) -> None:
    (body,) = repeats(parser.parse(pattern))
    assert (is_ambiguous(words(body)) is not None) is ambiguous
