"""What the teacher says: the likeliest tokens at each place of each answer, kept in one file."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from memos_vllm.parametric.training.weights import Answered, KeptContext, Weights

_BATCH = 8


class Targets:
    """Of lessons in their order; each one's places lie together.

    tokens: (places, top_k) int32; logprobs: (places, top_k) float32
    """

    def __init__(
        self, tokens: torch.Tensor, logprobs: torch.Tensor, lengths: Sequence[int]
    ) -> None:
        self._tokens, self._logprobs = tokens, logprobs
        self._ends = torch.tensor(list(lengths)).cumsum(0).tolist()
        self._lengths = list(lengths)

    def of(self, lesson: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(answer, top_k) of one lesson: tokens, log-probabilities."""
        end = self._ends[lesson]
        rows = slice(end - self._lengths[lesson], end)
        return self._tokens[rows].long(), self._logprobs[rows]


def teach(
    weights: Weights,
    answered: Sequence[Answered],
    top_k: int,
    file: Path,
    done: Callable[[int], None],
    before: Sequence[KeptContext | None] = (),
) -> Targets:
    """Ask the teacher, or read what it said when it was asked before.

    Args:
        answered: the lessons as the teacher sees them.
        done: told how many are done; may raise to stop.
        before: KV that stands before each of them; empty: none does.
    """
    lengths = [len(each.answer) for each in answered]
    if file.exists():
        kept = load_file(file)
        return Targets(kept["tokens"], kept["logprobs"], lengths)
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
    making = file.with_suffix(".making")
    save_file(whole, making)
    os.replace(making, file)  # noqa: PTH105  # Path.replace is the same call
    return Targets(whole["tokens"], whole["logprobs"], lengths)


def _batches(
    answered: Sequence[Answered], before: Sequence[KeptContext | None]
) -> Iterator[tuple[list[int], KeptContext | None]]:
    """Places of lessons of about one length, with the same KV before them."""
    order = sorted(
        range(len(answered)),
        key=lambda i: (id(before[i]), len(answered[i].prompt) + len(answered[i].answer)),
    )
    for _, group in itertools.groupby(order, key=lambda i: id(before[i])):
        places = list(group)
        for start in range(0, len(places), _BATCH):
            yield places[start : start + _BATCH], before[places[0]]
