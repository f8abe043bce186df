"""Tokenize text for lexical search, in any script.

Words of languages with spaces are stemmed (Snowball) without function words.  Scripts that put no spaces
between words are cut into overlapping n-grams of characters, which find as well as words from a segmenter
(Nie et al., "On the Use of Words and N-grams for Chinese Information Retrieval", 2000) and need no
dictionary.
"""

from __future__ import annotations

import threading
import unicodedata
from collections.abc import Iterator

import regex
import Stemmer

from memos_vllm.plaintext.english.lexicon import BASE_FORMS, STOP_WORDS
from memos_vllm.plaintext.languages import ENGLISH, FUNCTION_WORDS, language_of

VERSION = 2
"""Changes with the tokens of the same text."""
_WORD = regex.compile(r"[\p{L}\p{M}\p{N}_]+")
_RUN = regex.compile(
    r"(?P<pairs>[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\u30fc]+)"
    r"|(?P<triples>[\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]+)"
    r"|[^\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\u30fc\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]+"
)
_HAN = regex.compile(r"\p{Han}")
_EMPTY_CHARACTERS = frozenset(
    "的了是我你他她它们們这這那在有和与與也都就吗嗎呢吧啊哪什么麼怎谁誰几幾不很个個上下中里裡到说說要会會给給把被让讓对對为為從从"
)
"""Chinese characters that carry no content alone."""
_local = threading.local()


def tokenize(text: str) -> list[str]:
    """Tokens of a text, in order: stems of words, and n-grams of scripts without spaces."""
    words: list[str] = []
    grams: list[str] = []
    for word in _WORD.findall(unicodedata.normalize("NFKC", text).casefold()):
        if word.isascii():
            words.append(word)
            continue
        for run in _RUN.finditer(word):
            if run["pairs"]:
                grams.extend(_pairs(run[0]))
            elif run["triples"]:
                grams.extend(_grams(run[0], 3))
            else:
                words.append(run[0])
    return [*_stems(words), *grams] if words else grams


def _stems(words: list[str]) -> list[str]:
    language = language_of(words)
    if language == ENGLISH:
        words = [
            BASE_FORMS.get(word, word)
            for word in words
            if word not in STOP_WORDS and BASE_FORMS.get(word) not in STOP_WORDS
        ]
    else:
        left_out = FUNCTION_WORDS.get(language, frozenset())
        words = [word for word in words if word not in left_out] or words
    stems: list[str] = _stemmer(language).stemWords(words)
    return stems if all(map(str.isascii, stems)) else [_without_accents(stem) for stem in stems]


def _without_accents(stem: str) -> str:
    """A Latin stem without its accents, as people often type it; other scripts are unchanged."""
    plain = unicodedata.normalize("NFD", stem)
    return regex.sub(r"(?<=\p{Latin})\p{M}+", "", plain) if plain != stem else stem


def _pairs(run: str) -> Iterator[str]:
    """Pairs of characters, and each Chinese character that has content alone."""
    if len(run) == 1:
        yield run
        return
    yield from _grams(run, 2)
    yield from (
        character
        for character in run
        if _HAN.match(character) and character not in _EMPTY_CHARACTERS
    )


def _grams(run: str, size: int) -> Iterator[str]:
    yield from (run[start : start + size] for start in range(max(1, len(run) - size + 1)))


def _stemmer(language: str) -> Stemmer.Stemmer:
    """Snowball's stemmer, one for each thread: it is not safe across threads."""
    stemmers: dict[str, Stemmer.Stemmer] = _local.__dict__.setdefault("stemmers", {})
    if language not in stemmers:
        stemmers[language] = Stemmer.Stemmer(language)
    return stemmers[language]
