"""Sentences, content words and names of a text; similarity of two sentences by their words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from memos_vllm.prompt.splitting import split_sentences

_WORD = re.compile(r"\w+(?:[-:.,']\w+)*")
_NAME = re.compile(r"\b[A-Z][\w-]*(?: [A-Z][\w-]*)*")
_LIKE = 0.7
# Function words: an answer must have others.
EMPTY = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be been by did do does for from had has have he her his i in is it its me "
        "my of on or our she that the their them they this to was we were what when where which who "
        "whom whose why will with you your",
    )
)


def sentences(text: str) -> list[str]:
    """Sentences of a text in any script; a line break ends one."""
    return split_sentences(text)


def words_of(text: str) -> set[str]:
    """The set of words, casefolded, without possessive s; numbers and codes stay whole."""
    return {word.casefold().removesuffix("'s") for word in _WORD.findall(text)}


def is_like(one: str, other: str) -> bool:
    """Whether two sentences share most of their content words."""
    left, right = words_of(one) - EMPTY, words_of(other) - EMPTY
    return len(left & right) >= _LIKE * len(left | right) > 0


def names_in(texts: Sequence[str]) -> list[str]:
    """Capitalised words and phrases, the most frequent first; not a single word that begins a text."""
    names: Counter[str] = Counter()
    for text in texts:
        for match in _NAME.finditer(text):
            if match.start() > 0 or " " in match.group():
                names[match.group()] += 1
    return [name for name, _ in names.most_common()]
