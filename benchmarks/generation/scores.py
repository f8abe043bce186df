"""Scores without a judge: token F1 of LoCoMo's evaluation, and the letter of an option."""

from __future__ import annotations

import re
import statistics
import string
from collections import Counter
from collections.abc import Sequence

import Stemmer

from benchmarks.generation.dataset import LETTERS, Question

_ARTICLES = re.compile(r"\b(?:a|an|the|and)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_PORTER = Stemmer.Stemmer("porter")


def score(question: Question, answer: str) -> float | None:
    """Score from 0 to 1; None: it needs a judge."""
    match question.scored_by:
        case "f1":
            return token_f1(answer, question.answer)
        case "f1_of_parts":
            return token_f1_of_parts(answer, question.answer)
        case "letter":
            return float(chosen_letter(answer, question.options) == question.answer)
        case _:
            return None


def tokens(text: str) -> list[str]:
    """Stemmed words without punctuation, articles and `and`."""
    bare = text.lower().translate(_NO_PUNCTUATION)
    stems: list[str] = _PORTER.stemWords(_ARTICLES.sub(" ", bare).split())
    return stems


def token_f1(answer: str, reference: str) -> float:
    """Harmonic mean of token precision and recall."""
    found, wanted = tokens(answer), tokens(reference)
    common = (Counter(found) & Counter(wanted)).total()
    if not common:
        return 0.0
    precision, recall = common / len(found), common / len(wanted)
    return 2 * precision * recall / (precision + recall)


def token_f1_of_parts(answer: str, reference: str) -> float:
    """Mean over the parts of the reference of the best F1 among the parts of the answer."""
    found = answer.split(",")
    return statistics.fmean(
        max(token_f1(part, wanted) for part in found) for wanted in reference.split(",")
    )


def chosen_letter(answer: str, options: Sequence[str]) -> str | None:
    """Letter of the option that an answer chooses; None: none or several.

    In this order: a letter alone or at the beginning (`b`, `B.`, `(b) …`), one behind "answer" (`the
    answer is (b)`), the only one in brackets, the only option whose text is repeated.
    """
    text, letters = answer.strip().lower(), LETTERS[: len(options)]
    beginning = re.match(rf"[\W_]*([{letters}])(?:[).:\]*_]|\s*$)", text)
    if beginning:
        return beginning[1]
    named = re.findall(
        rf"\banswer(?:\s+is)?\W*\s*\(?([{letters}])(?:[).,:\]*_]|\s*$)", text, re.MULTILINE
    )
    if named:
        return str(named[-1])
    bracketed = set(re.findall(rf"\(([{letters}])\)", text))
    if bracketed:
        return str(bracketed.pop()) if len(bracketed) == 1 else None
    found = " ".join(tokens(text))
    repeated = [
        letter
        for letter, option in zip(letters, options, strict=True)
        if (words := " ".join(tokens(option))) and words in found
    ]
    return repeated[0] if len(repeated) == 1 else None
