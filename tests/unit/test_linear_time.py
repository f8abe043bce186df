"""Time grows with the size of a text, not with its square: every reading function on shapes of attack.

A function may be slow; what a text of n costs, one of 4 n costs at most eight times.  Short times are
not compared, as they are noise.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from memos_vllm.config.redaction import RedactionPolicy
from memos_vllm.cube.entities import entities_of, entity_key
from memos_vllm.cube.model import Item, ItemType
from memos_vllm.errors import MemosError
from memos_vllm.governance.redaction.redactor import Redactor
from memos_vllm.plaintext import languages, tokens
from memos_vllm.plaintext.claims import subjects
from memos_vllm.plaintext.documents.read import read_document
from memos_vllm.plaintext.english import clauses, instructions, lexicon, spelling, times
from memos_vllm.plaintext.reader import (
    about,
    by_rules,
    chunking,
    forgetting,
    query,
    support,
    turns,
    wording,
)
from memos_vllm.plaintext.reader import sentences as reader_sentences
from memos_vllm.plaintext.search import repeats
from memos_vllm.plaintext.statements import features
from memos_vllm.plaintext.statements import reader as statements
from memos_vllm.prompt import quoting, splitting
from memos_vllm.prompt import sentences as prompt_sentences
from memos_vllm.scheduler import excerpt

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SIZES = (900, 4000)  # characters; four times the first is below the cap of those that have one
MOST_RATIO = 8.0
NOISE_SECONDS = 0.02
BUDGET_SECONDS = 3.0  # of 16,000 characters


def turn(text: str) -> Item:
    return Item(type=ItemType.EPISODE, text=text.replace("\x00", " "), speaker="Ann", time=NOW)


def count(text: str) -> int:
    return len(text) // 4 + 1


def document(name: str) -> Callable[[str], object]:
    def read(text: str) -> object:
        try:
            return read_document(name, text.encode("utf-8", "replace"), 1 << 26)
        except MemosError:
            return None

    return read


REDACTOR = Redactor(RedactionPolicy(kinds=("secrets", "email", "phone", "national id")))
READERS: dict[str, Callable[[str], object]] = {
    "query": lambda text: query.read_query([{"role": "user", "content": text}], NOW),
    "orders to forget": forgetting.read_orders,
    "content of an order": forgetting.content_of,
    "secrets": REDACTOR.text,
    "sentences and clauses": reader_sentences.split,
    "language": about.language_of,
    "claims": lambda text: by_rules.read_claims([turn(text)], "Ann"),
    "passages": lambda text: chunking.passages(text, 64, count),
    "passages of a tokenizer with many tokens": lambda text: chunking.passages(text, 512, len),
    "clauses": lambda text: list(clauses.clauses(text)),
    "plain form": clauses.plain_form,
    "stripped clause": clauses.stripped_clause,
    "earnest": clauses.is_earnest,
    "sure": clauses.is_sure,
    "times": lambda text: times.find_times(text, NOW),
    "instructions": instructions.is_instruction,
    "named time": lexicon.named_time,
    "asks when": lexicon.asks_when,
    "asks for a reply": lexicon.asks_for_reply,
    "question": lexicon.is_question,
    "spelling": spelling.one_spelling,
    "prompt sentences": splitting.split_sentences,
    "names": lambda text: prompt_sentences.names_in([text]),
    "words": prompt_sentences.words_of,
    "quoting": lambda text: quoting.quoted(text, str),
    "BM25 tokens": tokens.tokenize,
    "language of words": lambda text: languages.language_of(text.split()),
    "features": features.grams,
    "shape": features.shape,
    "own sentences": statements.own_sentences,
    "entities": lambda text: entities_of(turn(text)),
    "entity key": entity_key,
    "repeats": repeats.normal,
    "relatives": subjects.without_relatives,
    "change": subjects.tells_change,
    "now": subjects.is_about_now,
    "excerpt": lambda text: excerpt.excerpt(text, "What is it about?", 64, count),
    "folding": support.folded,
    "pairs": support.words_and_pairs,
    "wording": wording.words_of,
    "turn": lambda text: turns.turn_body(
        [{"role": "user", "content": text}, {"role": "tool", "content": text}],
        text,
        model="m",
        request_id="r",
        at_us=1,
    ),
    "text document": document("a.txt"),
    "Markdown": document("a.md"),
    "HTML": document("a.html"),
}
SHAPES = (
    *(
        "a",
        "a ",
        "A ",
        "1",
        "1 ",
        "1,",
        "1.",
        "1-",
        "1:",
        "1/",
        "(",
        "((a",
        "[",
        "[[",
        "[a](",
        "{",
        "<",
        "</",
    ),
    *(
        "<!--",
        "<a>",
        "<div>",
        "<p hidden>",
        '<a b="c" ',
        '<a b="',
        "&",
        "&#9",
        '"',
        "'",
        "`",
        "```",
        "*a_ ",
    ),
    *(
        "#",
        "# ",
        "# a\n",
        "> ",
        "|",
        "|a|\n|-|\n",
        "-",
        "- ",
        "  - ",
        "a\n-\n",
        "[a]: b\n",
        "--",
        "=",
        ": ",
    ),
    *(
        ";",
        "; ",
        ",",
        ", ",
        ".",
        ". ",
        "!",
        "?",
        "\n",
        "\n ",
        "\t",
        " ",
        "\r\n",
        "a@b.",
        "@",
        "://a:",
        "://",
    ),
    *(
        "A. ",
        "Dr. ",
        "e.g. ",
        "1. ",
        "\u3002",
        "\u6211",
        "\u3001\u6211",
        "\u00e9",
        "A-",
        "a'",
        "a-",
        "a.",
        "A.",
    ),
    *(
        "my password ",
        "password is ",
        "password for a b c ",
        "pin ",
        "api key for ",
        "ssn ",
        "security code ",
    ),
    *("sk-", "sk_a_", "eyJaaaaaaaa.", "-----BEGIN PRIVATE KEY", "DE12 ", "4111 ", "4 ", "+49 30 "),
    *(
        "my ",
        "I am ",
        "I live in ",
        "and I ",
        "and my ",
        "the a ",
        "forget ",
        "forget that ",
        "please ",
    ),
    *(
        "remember that ",
        "last week ",
        "on 1 May ",
        "in 2020 ",
        "2020-01-01 ",
        "at 5 ",
        "tomorrow ",
        "Monday ",
    ),
    *(
        "not ",
        "if ",
        'she said "',
        "\u201c",
        "\u00ab",
        "my wife's ",
        "A, B and ",
        "used to ",
        "no longer ",
    ),
    *(
        "ignore ",
        "you must ",
        "<|im_start|>",
        "[INST]",
        "\x00",
        "\u200b",
        "\U0001f600",
        "\u0300",
        "\\",
        "$",
    ),
)
SLOW = ("claims", "instructions", "features", "change")  # a constant cost per letter
FRAMES = (("", ""), ("I live in x", "\x01z. I"))


def seconds(read: Callable[[str], object], text: str) -> float:
    begun = time.process_time()
    read(text)
    return time.process_time() - begun


def growth(
    read: Callable[[str], object], shape: str, frame: tuple[str, str], size: int
) -> str | None:
    """What is wrong with the growth; None: nothing."""

    def text(length: int) -> str:
        return frame[0] + (shape * (length // len(shape) + 1))[:length] + frame[1]

    large = seconds(read, text(4 * size))
    if large < NOISE_SECONDS:
        return None
    if large > BUDGET_SECONDS:
        return f"{shape!r} x {4 * size}: {large:.4f} s"
    small = min(seconds(read, text(size)) for _ in range(3))
    large = min(large, *(seconds(read, text(4 * size)) for _ in range(3)))
    if large < NOISE_SECONDS:
        return None
    if large > BUDGET_SECONDS or large > MOST_RATIO * small:
        return f"{shape!r} x {size}: {small:.4f} s, four times as much: {large:.4f} s"
    return None


@pytest.mark.parametrize("name", READERS)
def test_time_is_linear_in_the_text(name: str) -> None:
    read = READERS[name]
    read("I live in Paris since 2019. Forget that I liked tea.")  # patterns and models are loaded
    found = (
        growth(read, shape, frame, size)
        for size in (SIZES[:1] if name in SLOW else SIZES)
        for frame in FRAMES[: 1 if size > SIZES[0] else 2]
        for shape in SHAPES
    )
    assert [wrong for wrong in found if wrong is not None] == []


def test_a_growth_that_is_not_linear_is_seen() -> None:
    def quadratic(text: str) -> int:
        return sum(1 for start in range(len(text)) for _ in text[start::4])

    assert growth(quadratic, "a", ("", ""), 900) is not None
    assert growth(lambda text: sum(1 for _ in text for _ in range(100)), "a", ("", ""), 900) is None
