"""Decode an adapter into statements, by sampling answers and keeping those that agree.

A statement passes if enough samples of one question agree on it, and the base model's samples contain
nothing similar.  Names in the statements become topics of the next round.

Source: agreement between samples as evidence of knowledge rather than invention (SelfCheckGPT, arXiv
2303.08896; self-consistency, arXiv 2203.11171).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from memos_vllm.parametric.training.order import Decoding
from memos_vllm.parametric.training.study import ABOUT
from memos_vllm.parametric.training.weights import Weights
from memos_vllm.prompt.sentences import is_like, names_in, sentences
from memos_vllm.writer.base import Ask

_GENERAL = ("What do you remember?", "Tell me something that you know.")
_MOST_TOPICS = 24
_TEMPERATURE = 0.5
_TOKENS = 96


def decode(
    weights: Weights, adapted: Any, wanted: Decoding, done: Callable[[int, int], None]
) -> list[str]:
    """Distinct statements, in order of discovery.

    Args:
        adapted: the model with the adapter on (a `PeftModel` around `weights.model`).
        done: called with (answers, answers of this round); may raise to stop.
    """
    found: list[str] = []
    asked: set[str] = set()
    topics = list(dict.fromkeys(wanted.topics))
    questions = list(_GENERAL)
    for _ in range(wanted.rounds):
        questions += [form.format(topic) for topic in topics for form in ABOUT]
        questions = [question for question in questions if question not in asked]
        asked.update(questions)
        for statement in _agreed_statements(weights, adapted, wanted, questions, done):
            if not any(is_like(statement, other) for other in found):
                found.append(statement)
        known = set(topics)
        topics = [name for name in names_in(found) if name not in known][
            : _MOST_TOPICS - len(known)
        ]
        if not topics:
            break
        questions = []
    return found


def _agreed_statements(
    weights: Weights,
    adapted: Any,
    wanted: Decoding,
    questions: Sequence[str],
    done: Callable[[int, int], None],
) -> Iterator[str]:
    """Statements on which enough samples of one question agree."""
    # Equal seeds make one batch, in which each row samples independently.
    asks = [
        Ask([{"role": "user", "content": question}], _TOKENS, _TEMPERATURE)
        for question in questions
        for _ in range(wanted.samples)
    ]
    answers = weights.write(asks, lambda count: done(count, 2 * len(asks)))
    with adapted.disable_adapter():
        base_answers = weights.write(asks, lambda count: done(len(asks) + count, 2 * len(asks)))
    base_sentences = [sentence for text in base_answers for sentence in sentences(text)]
    for number in range(len(questions)):
        rows = slice(number * wanted.samples, (number + 1) * wanted.samples)
        samples = [sentences(text) for text in answers[rows]]
        forms = Counter(sentence for each in samples for sentence in each if _is_whole(sentence))
        for sentence, _ in forms.most_common():
            agreeing = sum(any(is_like(sentence, other) for other in each) for each in samples)
            if agreeing >= wanted.agreement * wanted.samples and not any(
                is_like(sentence, other) for other in base_sentences
            ):
                yield sentence


def _is_whole(sentence: str) -> bool:
    return sentence.endswith((".", "!"))
