"""The gate of an adapter: recall of its text, and forgetting of everything else.

Recall is measured on held-out questions: with the text in the prompt (ceiling), without it (floor), and
with the adapter.  Forgetting is the perplexity of unrelated chats, relative to the base model's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from memos_vllm.cube.model import Item
from memos_vllm.parametric.training.everyday import UNRELATED
from memos_vllm.parametric.training.order import Gate, Order, Question, Recall
from memos_vllm.parametric.training.study import by_overlap, is_right, question_messages
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
    """Ceiling, floor and adapter recall, and the adapter's answers; no ceiling where the order has no text.

    Args:
        student: `Student`, its adapter on.
        done: called with the number of answers; may raise to stop.
    """
    plain = asks(weights, order, exam, with_text=False)
    ceiling: float | None = None
    with student.base():
        if order.passages:
            shown = asks(weights, order, exam, with_text=True)
            ceiling = share_right(weights.write(shown, done), exam)
        floor = weights.write(plain, lambda count: done(len(exam) + count))
    answers = weights.write(plain, lambda count: done(2 * len(exam) + count))
    recalled = Recall(
        questions=len(exam),
        ceiling=ceiling,
        floor=share_right(floor, exam),
        adapter=share_right(answers, exam),
    )
    return recalled, answers


def asks(weights: Weights, order: Order, exam: Sequence[Question], with_text: bool) -> list[Ask]:
    return [
        Ask(
            question_messages(
                _shown(weights, order, question) if with_text else None,
                question.question,
                weights.escape,
            ),
            order.recipe.answer_tokens,
        )
        for question in exam
    ]


def share_right(replies: Sequence[str], exam: Sequence[Question]) -> float:
    right = sum(
        is_right(reply, question.answer) for reply, question in zip(replies, exam, strict=True)
    )
    return round(right / max(1, len(exam)), 4)


def _shown(weights: Weights, order: Order, question: Question) -> list[Item]:
    """The passages before a question: all, or within `shown_tokens` those with the most shared words."""
    sizes = [len(weights.tokenizer.encode(item.text)) for item in order.passages]
    if sum(sizes) <= order.shown_tokens:
        return order.passages
    left, chosen = order.shown_tokens, set()
    for index in by_overlap(question.question, [item.text for item in order.passages]):
        if sizes[index] <= left:
            left -= sizes[index]
            chosen.add(index)
    return [item for index, item in enumerate(order.passages) if index in chosen]


@torch.inference_mode()
def forgetting(weights: Weights, student: Any) -> float:
    """Perplexity of unrelated text with the adapter, relative to the base model's; 1: no change."""
    with student.base():
        base = _nats(weights, student.model)
    return math.exp(_nats(weights, student.model) - base)


def verdict(
    gate: Gate, recalled: Recall | None, ratio: float | None, *, needs_exam: bool = True
) -> list[str]:
    """Reasons to refuse an adapter; empty: it passes.

    Args:
        needs_exam: without a question it is refused; False: then only what it makes forget counts.
    """
    reasons = []
    if ratio is not None and not ratio <= gate.perplexity_ratio:
        reasons.append(
            f"forgetting: perplexity of unrelated text is {ratio:.3f} times the base model's; the "
            f"limit is {gate.perplexity_ratio}"
        )
    if recalled is None or recalled.questions == 0:
        if not needs_exam:
            return reasons
        reasons.append("recall: the exam has no question; give some as `exam`")
        return reasons
    wanted = gate.recall_of_ceiling * (recalled.ceiling or 0)
    if recalled.ceiling == 0:
        reasons.append("recall: the model answers no question, even with the text in the prompt")
    elif recalled.adapter < wanted:
        reasons.append(
            f"recall: {recalled.adapter:.0%} of the questions; the minimum is {wanted:.0%} "
            f"({gate.recall_of_ceiling:.0%} of the recall with the text in the prompt)"
        )
    elif recalled.adapter <= recalled.floor:
        reasons.append(f"recall: {recalled.adapter:.0%}, no better than the base model")
    return reasons


def _nats(weights: Weights, model: Any) -> float:
    """Mean negative log-likelihood per token of the unrelated text, nats."""
    total, count = 0.0, 0
    chats = [
        weights.answered([{"role": "user", "content": question}], answer)
        for question, answer in UNRELATED
    ]
    for start in range(0, len(chats), _BATCH):
        batch = chats[start : start + _BATCH]
        tokens = torch.tensor([token for each in batch for token in each.answer])
        logprobs = weights.logits(batch, model).float().log_softmax(-1)  # (tokens, vocabulary)
        total -= float(logprobs.gather(-1, tokens.to(logprobs.device)[:, None]).sum())
        count += len(tokens)
    return total / count
