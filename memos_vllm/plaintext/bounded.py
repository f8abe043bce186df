"""Search of patterns in texts of any length, in time that is linear in the text.

A pattern with several repetitions may need quadratic time on a text that is made for it.  Runs of
white space are shortened first, and a long text is searched window by window.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_RUN = re.compile(r"\s{3,}")
_MARKS = re.compile(r"([.!?`*_~=-])\1{3,}")
_WINDOW, _OVERLAP = 1000, 250  # characters; no form of a pattern is longer than the overlap


def squeezed(text: str) -> str:
    """The text with each run of three and more white spaces as two: line breaks, or blanks."""
    return _RUN.sub(lambda run: "\n\n" if "\n" in run[0] or "\r" in run[0] else "  ", text)


def shortened(text: str) -> str:
    """As `squeezed`, and each run of four and more of a mark as three."""
    return _MARKS.sub(r"\1\1\1", squeezed(text))


def found_in(pattern: re.Pattern[str], text: str) -> bool:
    """Whether the pattern is anywhere in the text, each match of at most `_OVERLAP` characters."""
    short = squeezed(text)
    return any(pattern.search(short, start, end) is not None for start, end in _windows(len(short)))


def _windows(length: int) -> Iterator[tuple[int, int]]:
    start = 0
    while True:
        yield start, min(start + _WINDOW, length)
        if start + _WINDOW >= length:
            return
        start += _WINDOW - _OVERLAP
