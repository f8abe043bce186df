"""Chunk text into passages of at most N tokens, at paragraph, sentence or word borders."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

CountTokens = Callable[[str], int]
_BORDERS = (
    re.compile(r"(?<=\n)\s*\n+"),
    re.compile(r"(?<=[.!?\u3002\uff01\uff1f])\s+"),
    re.compile(r"\s+"),
)
_WORST_CHARACTERS_PER_TOKEN = 1  # a tokenizer never makes more tokens than bytes; ASCII: characters


def passages(text: str, limit: int, count: CountTokens) -> list[str]:
    """Passages in order, none empty, each at most `limit` tokens by `count`.

    Coarser borders are tried first; a single word longer than the limit is split.
    """
    packed: list[str] = []
    for piece in _pieces(text.strip(), limit, count, 0):
        if packed and count(f"{packed[-1]}{piece}") <= limit:
            packed[-1] += piece
        else:
            packed.append(piece)
    return [stripped for passage in packed if (stripped := passage.strip())]


def _pieces(text: str, limit: int, count: CountTokens, level: int) -> Iterator[str]:
    """Pieces within the limit that concatenate to `text`."""
    if not text:
        return
    if (len(text) <= limit * _WORST_CHARACTERS_PER_TOKEN and text.isascii()) or count(
        text
    ) <= limit:
        yield text
        return
    if level == len(_BORDERS):
        half = len(text) // 2
        if half == 0:
            yield text
            return
        yield from _pieces(text[:half], limit, count, level)
        yield from _pieces(text[half:], limit, count, level)
        return
    start = 0
    for match in _BORDERS[level].finditer(text):
        yield from _pieces(text[start : match.end()], limit, count, level + 1)
        start = match.end()
    yield from _pieces(text[start:], limit, count, level + 1)
