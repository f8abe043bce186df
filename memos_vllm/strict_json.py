"""JSON from outside, parsed strictly: bounded in size and depth, one meaning for every reader.

Refused are what other parsers read differently or what costs more than its length: repeated keys,
NaN and infinities (also `1e999`), integers of more than 19 digits, lone surrogates, deep nesting.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from memos_vllm.errors import BadRequest, TooLarge

MOST_BYTES = 64 << 20
MOST_DEPTH = 64
_MOST_DIGITS = 19
# Strings are skipped whole, also one that never ends, so that the scan is linear.
_BRACKET = re.compile(r'"(?:[^"\\]++|\\.|\\\Z)*+(?:"|\Z)|[\[{]|[\]}]', re.DOTALL)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")


class _Refused(ValueError):
    pass


def parse(
    data: str | bytes,
    *,
    what: str = "the body",
    most_bytes: int = MOST_BYTES,
    most_depth: int = MOST_DEPTH,
    keep_surrogates: bool = False,
) -> Any:
    """The value of a JSON text.

    Args:
        what: names the text in errors: "the body", "file.jsonl:3".
        keep_surrogates: for callers that replace lone surrogates themselves.

    Raises:
        TooLarge: longer or deeper than allowed.
        BadRequest: no JSON in UTF-8, or JSON that is refused.
    """
    if len(data) > most_bytes:
        raise TooLarge(f"{what}: {len(data)} bytes of JSON; at most {most_bytes}")
    try:
        text = data if isinstance(data, str) else data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadRequest(
            f"{what}: not UTF-8 text ({error.reason} at byte {error.start})"
        ) from error
    _check_depth(text, what, most_depth)
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_constant,
        )
    except json.JSONDecodeError as error:
        raise BadRequest(
            f"{what}: not valid JSON ({error.msg}, line {error.lineno} column {error.colno})"
        ) from error
    except (_Refused, RecursionError) as error:
        raise BadRequest(f"{what}: {error}") from error
    if not keep_surrogates and _SURROGATE.search(text) is not None:
        _check_surrogates(value, what)
    return value


def _check_depth(text: str, what: str, most: int) -> None:
    depth = 0
    for match in _BRACKET.finditer(text):
        first = match[0][0]
        if first == '"':
            continue
        depth += 1 if first in "[{" else -1
        if depth > most:
            raise TooLarge(f"{what}: JSON nested deeper than {most}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _Refused(f"the key {key[:100]!r} occurs twice in one object")
            seen.add(key)
    return made


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > _MOST_DIGITS:
        raise _Refused(f"an integer of {len(digits)} characters; at most {_MOST_DIGITS} digits")
    return int(digits)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _Refused(f"{text[:40]} is not a finite number")
    return value


def _constant(name: str) -> NoReturn:
    raise _Refused(f"{name} is not JSON")


def _check_surrogates(value: Any, what: str) -> None:
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            if any("\ud800" <= character <= "\udfff" for character in one):
                raise BadRequest(f"{what}: a string has half of a surrogate pair")
        elif isinstance(one, dict):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, list):
            waiting += one
