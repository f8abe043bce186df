"""Cut a text into items that join to the same text again.

The server cuts long items into passages, and the white space between passages is lost. Files and values have to
come back as they were, so they are cut here, into pieces that are too short for the server to cut. No border falls
into a secret or between it and its label: the server redacts item by item.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Sequence

from memos_vllm.errors import Unprocessable
from memos_vllm.governance.redaction import personal, secrets

LONGEST = 256
"""Characters; at most as many tokens, and `limits.chunk_tokens` is 512."""
_LABEL = 160
"""Characters in front of a secret that may hold its label."""
_FINDERS = (
    *(find for _, find in secrets.SECRETS),
    personal.emails,
    personal.national_ids,
    personal.phones,
)
_BORDERS = (re.compile(r"\n+(?=.)", re.DOTALL), re.compile(r"\s+(?=\S)"))


def pieces(text: str) -> list[str]:
    """Pieces that concatenate to the text, longer than LONGEST only around a secret; none is empty."""
    closed = _closed(text)
    made: list[str] = []
    start = 0
    while len(text) - start > LONGEST:
        end = _border(text, start, closed)
        made.append(text[start:end])
        start = end
    return [*made, text[start:]] if start < len(text) else made


def joined(sent: Sequence[str], stored: Sequence[str]) -> str:
    """The text that the stored pieces make.

    Args:
        sent: pieces as they were sent.

    Raises:
        Unprocessable: the server has cut them further, so that the text cannot be read back.
    """
    if len(stored) != len(sent):
        raise Unprocessable(
            f"the server cuts passages of fewer than {LONGEST} characters: set `limits.chunk_tokens` to "
            f"{LONGEST} or more"
        )
    return "".join(stored)


def _border(text: str, start: int, closed: Sequence[tuple[int, int]]) -> int:
    """End of the piece that begins at `start`: a line's end, else a word's, outside of closed ranges."""
    latest = start + LONGEST
    for border in _BORDERS:
        ends = [match.end() for match in border.finditer(text, start, latest)]
        for end in reversed(ends):
            if _end_of_closed(end, closed) is None:
                return end
    return _end_of_closed(latest, closed) or latest


def _end_of_closed(position: int, closed: Sequence[tuple[int, int]]) -> int | None:
    """End of the closed range around a position; None: a border may be there."""
    index = bisect.bisect_left(closed, (position, 0)) - 1
    return closed[index][1] if index >= 0 and position < closed[index][1] else None


def _closed(text: str) -> list[tuple[int, int]]:
    """Ranges in which no border may fall: secrets with what stands in front of them; sorted, disjoint."""
    ranges = sorted(
        (max(text.rfind("\n", 0, begin) + 1, begin - _LABEL), end)
        for find in _FINDERS
        for begin, end in find(text)
    )
    merged: list[tuple[int, int]] = []
    for begin, end in ranges:
        if merged and begin < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged
