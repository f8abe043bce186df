"""Which claims stand in every prompt, and in which order they keep that place when there are too many."""

from __future__ import annotations

from memos_vllm.cube.model import Item, ItemType, Standing

_HEALTH = ("allergy", "intolerance", "diet")
_IDENTITY = (
    *("name", "age", "home", "employer", "job", "birthday", "spouse.name"),
    *("language.native",),
)
_ORDER = {
    Standing.CONSTRAINT: 0,
    Standing.INSTRUCTION: 1,
    Standing.FACT: 2,
    Standing.PREFERENCE: 3,
}
CORE = 2
"""Highest rank of what does not depend on the question: constraints, instructions, identity."""


def standing_of(item: Item) -> Standing | None:
    """Standing of a claim for every prompt; None: it is found by search alone."""
    claim = item.claim
    if claim is not None and claim.standing is not None:
        return claim.standing
    attribute = (claim.attribute if claim is not None else None) or ""
    if attribute.split(":")[0] in _HEALTH:
        return Standing.CONSTRAINT
    if attribute.startswith("reply.") or attribute == "reply":
        return Standing.INSTRUCTION
    if attribute.split(":")[0] in _IDENTITY:
        return Standing.FACT
    return Standing.PREFERENCE if item.type is ItemType.PREFERENCE else None


def rank_of(item: Item) -> int:
    """Order of places: the lowest keeps its place longest."""
    standing = standing_of(item)
    if standing is None:
        return len(_ORDER)
    is_read = item.claim is not None and item.claim.standing is Standing.FACT
    # A fact that is kept verbatim may be of passing interest: after preferences.
    return len(_ORDER) if is_read else _ORDER[standing]


def choose(items: list[Item], most: int, tokens: int) -> tuple[list[Item], list[Item]]:
    """The items that keep a place, and the others; both in their old order.

    A full block lets the lowest standing go, the newest of it first, so that what stays keeps its
    bytes and its KV.

    Args:
        most: items.
        tokens: estimated tokens of them all.
    """
    by_rank = sorted(range(len(items)), key=lambda i: (rank_of(items[i]), i))
    chosen: set[int] = set()
    left = tokens
    for position in by_rank:
        needed = tokens_of(items[position])
        if len(chosen) < most and needed <= left:
            chosen.add(position)
            left -= needed
    kept = [item for i, item in enumerate(items) if i in chosen]
    return kept, [item for i, item in enumerate(items) if i not in chosen]


def tokens_of(item: Item) -> int:
    """Estimated tokens of an item's line: bytes by 3.5, which few tokenizers and scripts exceed."""
    head = 14 + len((item.speaker or "").encode("utf-8", "surrogatepass"))
    return int((head + len(item.text.encode("utf-8", "surrogatepass"))) / 3.5) + 1
