"""Tokenize text for lexical search."""

from __future__ import annotations

import re
import threading

import Stemmer

from memos_vllm.plaintext.english.lexicon import BASE_FORMS, STOP_WORDS

_WORD = re.compile(r"\w+")
_local = threading.local()


def tokenize(text: str) -> list[str]:
    """Lower-case words without English stop words, as base forms, stemmed (Snowball)."""
    if not hasattr(_local, "stemmer"):
        _local.stemmer = Stemmer.Stemmer("english")  # a stemmer is not safe across threads
    words = [
        BASE_FORMS.get(word, word)
        for word in _WORD.findall(text.lower())
        if word not in STOP_WORDS and BASE_FORMS.get(word) not in STOP_WORDS
    ]
    stems: list[str] = _local.stemmer.stemWords(words)
    return stems
