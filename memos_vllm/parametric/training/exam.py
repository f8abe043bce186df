"""The gate: may an adapter serve?

Recall is asked with questions that were not taught: answered with the text before them (the ceiling),
with nothing (the floor), with the adapter.  Forgetting is the perplexity of unrelated text, as a chat,
over the base model's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from memos_vllm.cube.model import Item
from memos_vllm.parametric.training.everyday import UNRELATED
from memos_vllm.parametric.training.order import Gate, Order, Question, Recall
from memos_vllm.parametric.training.study import by_overlap, is_right, told
from memos_vllm.parametric.training.weights import Weights
from memos_vllm.writer.base import Ask

_BATCH = 4


def recall(
    weights: Weights,
    student: Any,
    order: Order,
    exam: Sequence[Question],
    done: Callable[[int], None],
) -> tuple[Recall, list[str]]:
    """Right answers in each of the three ways, and what the adapter said.

    Args:
        student: `Student`, its adapter on.
        done: told how many questions are answered; may raise to stop.
    """
    escape = weights.escape
    counts: dict[str, int] = {}
    said: list[str] = []
    ways = (("ceiling", True, True), ("floor", False, True), ("adapter", False, False))
    for turn, (way, with_text, without_adapter) in enumerate(ways):
        asks = [
            Ask(
                told(
                    _shown(weights, order, question) if with_text else None,
                    question.question,
                    escape,
                ),
                order.recipe.answer_tokens,
            )
            for question in exam
        ]

        def so_far(count: int, turn: int = turn) -> None:
            done(turn * len(exam) + count)

        if without_adapter:
            with student.base():
                replies = weights.write(asks, so_far)
        else:
            replies = said = weights.write(asks, so_far)
        counts[way] = sum(
            is_right(reply, question.answer) for reply, question in zip(replies, exam, strict=True)
        )
    most = max(1, len(exam))
    return Recall(
        questions=len(exam), **{way: round(count / most, 4) for way, count in counts.items()}
    ), said


def _shown(weights: Weights, order: Order, question: Question) -> list[Item]:
    """The text before a question: all of it, or of a long one what shares most words with it."""
    sizes = [len(weights.tokenizer.encode(item.text)) for item in order.passages]
    if sum(sizes) <= order.shown_tokens:
        return order.passages
    left, chosen = order.shown_tokens, set()
    for place in by_overlap(question.question, [item.text for item in order.passages]):
        if sizes[place] <= left:
            left -= sizes[place]
            chosen.add(place)
    return [item for place, item in enumerate(order.passages) if place in chosen]


@torch.inference_mode()
def forgetting(weights: Weights, student: Any) -> float:
    """Perplexity of unrelated text with the adapter, over the base model's; 1: nothing changed."""
    with student.base():
        base = _nats(weights, student.model)
    return math.exp(_nats(weights, student.model) - base)


def verdict(gate: Gate, recalled: Recall | None, ratio: float | None) -> list[str]:
    """Why an adapter must not serve; empty: it may."""
    reasons = []
    if ratio is not None and not ratio <= gate.perplexity_ratio:
        reasons.append(
            f"forgetting: perplexity of unrelated text is {ratio:.3f} of the base model's; at most "
            f"{gate.perplexity_ratio}"
        )
    if recalled is None or recalled.questions == 0:
        reasons.append("recall: there was no question to ask; give some as `exam`")
        return reasons
    wanted = gate.recall_of_ceiling * recalled.ceiling
    if recalled.ceiling == 0:
        reasons.append("recall: not even with the text before it does the model answer a question")
    elif recalled.adapter < wanted:
        reasons.append(
            f"recall: {recalled.adapter:.0%} of the questions; at least {wanted:.0%} "
            f"({gate.recall_of_ceiling:.0%} of what the text in the prompt gives)"
        )
    elif recalled.adapter <= recalled.floor:
        reasons.append(f"recall: {recalled.adapter:.0%}, and so much the model knew before")
    return reasons


def _nats(weights: Weights, model: Any) -> float:
    """Mean negative log-likelihood of a token of the unrelated text."""
    total, count = 0.0, 0
    chats = [
        weights.answered([{"role": "user", "content": asked}], answer)
        for asked, answer in UNRELATED
    ]
    for start in range(0, len(chats), _BATCH):
        batch = chats[start : start + _BATCH]
        tokens = torch.tensor([token for each in batch for token in each.answer])
        said = weights.logits(batch, model).float().log_softmax(-1)
        total -= float(said.gather(-1, tokens.to(said.device)[:, None]).sum())
        count += len(tokens)
    return total / count
