"""Elements of a JSON list, one at a time: a file of a gigabyte takes the memory of its largest record."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from memos_vllm import strict_json
from memos_vllm.errors import BadRequest, TooLarge

_CHUNK = 1 << 20
_OUTSIDE = re.compile(r'["\[\]{},]')
_INSIDE = re.compile(r'["\\]')


def list_elements(read: Callable[[int], str], what: str) -> Iterator[str]:
    """Texts of the elements of a list; the elements themselves are not checked.

    Args:
        read: returns so many characters, or fewer; none at the end.
        what: names the file in errors.
    Raises:
        BadRequest: no list, or it does not end.
        TooLarge: an element of more than `strict_json.MOST_BYTES`.
    """
    text = read(_CHUNK).lstrip("\ufeff \t\r\n")
    if not text.startswith("["):
        raise BadRequest(f"{what}: a JSON list is needed")
    start = position = 1
    depth, is_inside = 0, False
    while True:
        match = (_INSIDE if is_inside else _OUTSIDE).search(text, position)
        if match is None:
            text, start, position = _more(read, text, start, position, what)
            continue
        mark, position = match[0], match.end()
        if is_inside:
            position += mark == "\\"  # and what it escapes
            is_inside = mark == "\\"
        elif mark == '"':
            is_inside = True
        elif mark in "[{":
            depth += 1
        elif mark == ",":
            if depth == 0:
                yield text[start : position - 1]
                start = position
        elif depth:
            depth -= 1
        else:
            if text[start : position - 1].strip():
                yield text[start : position - 1]
            return


def _more(
    read: Callable[[int], str], text: str, start: int, position: int, what: str
) -> tuple[str, int, int]:
    """The rest of the text with what comes next, and the places in it."""
    fresh = read(_CHUNK)
    if not fresh:
        raise BadRequest(f"{what}: the list does not end, the file is truncated: export it again")
    if len(text) - start > strict_json.MOST_BYTES:
        raise TooLarge(f"{what}: a record of more than {strict_json.MOST_BYTES} characters")
    return text[start:] + fresh, 0, max(position, len(text)) - start
