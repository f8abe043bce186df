"""The teacher's top-k distribution at each token of each answer, cached in one file."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from memos_vllm.parametric.training.weights import Answered, ContextKV, Weights

_BATCH = 8


class Targets:
    """Targets of all lessons, in order; the positions of a lesson are contiguous.

    tokens: (positions, top_k) int32; logprobs: (positions, top_k) float32
    """

    def __init__(
        self, tokens: torch.Tensor, logprobs: torch.Tensor, lengths: Sequence[int]
    ) -> None:
        self._tokens, self._logprobs = tokens, logprobs
        self._ends = torch.tensor(list(lengths)).cumsum(0).tolist()
        self._lengths = list(lengths)

    def of(self, lesson: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens and log-probabilities of one lesson, both (answer tokens, top_k)."""
        end = self._ends[lesson]
        rows = slice(end - self._lengths[lesson], end)
        return self._tokens[rows].long(), self._logprobs[rows]


def teach(
    weights: Weights,
    answered: Sequence[Answered],
    top_k: int,
    file: Path,
    done: Callable[[int], None],
    before: Sequence[ContextKV | None] = (),
) -> Targets:
    """Compute the targets, or read them from the file.

    Args:
        answered: the teacher's lessons.
        done: called with the number of finished lessons; may raise to stop.
        before: KV before each lesson; empty: none.
    """
    lengths = [len(each.answer) for each in answered]
    if file.exists():
        stored = load_file(file)
        return Targets(stored["tokens"], stored["logprobs"], lengths)
    tokens: dict[int, torch.Tensor] = {}
    logprobs: dict[int, torch.Tensor] = {}
    finished = 0
    for batch, context in _batches(answered, before or [None] * len(answered)):
        with torch.inference_mode():
            logits = weights.logits([answered[i] for i in batch], before=context)
            likeliest = logits.float().log_softmax(-1).topk(top_k, dim=-1)
        parts = [lengths[i] for i in batch]
        tokens |= zip(batch, likeliest.indices.to("cpu", torch.int32).split(parts), strict=True)  # type: ignore[no-untyped-call]  # torch
        logprobs |= zip(batch, likeliest.values.cpu().split(parts), strict=True)  # type: ignore[no-untyped-call]  # torch
        finished += len(batch)
        done(finished)
    whole = {
        "tokens": torch.cat([tokens[i] for i in range(len(answered))]),
        "logprobs": torch.cat([logprobs[i] for i in range(len(answered))]),
    }
    partial = file.with_suffix(".making")
    save_file(whole, partial)
    os.replace(partial, file)  # noqa: PTH105  # Path.replace is the same call
    return Targets(whole["tokens"], whole["logprobs"], lengths)


def _batches(
    answered: Sequence[Answered], before: Sequence[ContextKV | None]
) -> Iterator[tuple[list[int], ContextKV | None]]:
    """Batches of indices of lessons with similar length and the same KV before them."""
    order = sorted(
        range(len(answered)),
        key=lambda i: (id(before[i]), len(answered[i].prompt) + len(answered[i].answer)),
    )
    for _, group in itertools.groupby(order, key=lambda i: id(before[i])):
        indices = list(group)
        for start in range(0, len(indices), _BATCH):
            yield indices[start : start + _BATCH], before[indices[0]]
