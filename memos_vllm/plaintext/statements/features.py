"""Features of a sentence that need no language: hashed n-grams of characters and words, and its shape."""

from __future__ import annotations

import itertools
import re
import unicodedata
import zlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Features = npt.NDArray[np.float32]
BUCKETS = 1 << 13
SHAPE = 9
# Vowel signs of Indic and Thai letters are marks, which \w leaves out.
_WORD = re.compile(r"(?:\w|[\u0300-\u036f\u0900-\u0dff\u0e00-\u0e7f])+")
_NO_SPACES = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff]")
_QUESTION_MARKS = "?\uff1f\u061f\u037e"
_QUOTE = re.compile(r'["“”«»「」„]')
_CODE = re.compile(r"[{}<>=`;\\|]|\w\(")
_STEM = 6


def words(text: str) -> list[str]:
    """Words in order, casefolded; a run of a script without spaces is one word."""
    return _WORD.findall(_normal(text).casefold())


def has_no_spaces(word: str) -> bool:
    """Whether its script writes no spaces between words."""
    return _NO_SPACES.search(word) is not None


def content(text: str) -> set[str]:
    """Words cut to their first letters, for inflection; pairs of characters where no spaces are written."""
    found: set[str] = set()
    for word in words(text):
        if has_no_spaces(word):
            found |= {word[i : i + 2] for i in range(max(1, len(word) - 1))}
        else:
            found.add(word[:_STEM])
    return found


def bucket(feature: str) -> int:
    return zlib.crc32(feature.encode("utf-8", "surrogatepass")) % BUCKETS


def grams(text: str) -> Features:
    """(BUCKETS,) of length 1: square roots of the counts of hashed n-grams."""
    counts = np.zeros(BUCKETS, dtype=np.float32)
    for feature in _grams(text):
        counts[bucket(feature)] += 1
    roots: Features = np.sqrt(counts)
    return roots / np.float32(max(float(np.linalg.norm(roots)), 1e-6))


def shape(text: str) -> Features:
    """(SHAPE,) question, quote, code, length, digits, exclamation, colon, ellipsis; 0 to 3."""
    size = max(1, len(text))
    return np.array(
        [
            _asks(text),
            "?" in text or "\uff1f" in text,
            _QUOTE.search(text) is not None,
            _CODE.search(text) is not None,
            min(3.0, float(np.log1p(len(text.encode("utf-8", "surrogatepass")) / 20))),
            sum(character.isdigit() for character in text) / size,
            text.rstrip().endswith(("!", "\uff01")),
            ":" in text or "\uff1a" in text,
            "…" in text or "..." in text,
        ],
        dtype=np.float32,
    )


def _asks(text: str) -> bool:
    """Whether a question mark is behind the last word."""
    for character in reversed(text):
        if character in _QUESTION_MARKS:
            return True
        if character.isalnum() or character == "_":
            return False
    return False


def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).split())


def _grams(text: str) -> Iterator[str]:
    plain = _normal(text).casefold()
    padded = f" {plain} "
    for length in (2, 3, 4):
        for start in range(len(padded) - length + 1):
            yield f"c{padded[start : start + length]}"
    found = words(text)
    yield from (f"w{word}" for word in found)
    yield from (f"b{one} {other}" for one, other in itertools.pairwise(found))
    for count in (1, 2, 3):
        yield f"^{' '.join(found[:count])}"
        yield f"<{plain[:count]}"
        yield f">{plain[-count:]}"
