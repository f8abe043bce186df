"""Make a compact of a cube's text with the weights of the served model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from memos_vllm.activation.rotation import Rotation, rotation, rotation_problem
from memos_vllm.compacts.frame import Frame
from memos_vllm.compacts.match import match
from memos_vllm.compacts.watch import watching
from memos_vllm.cube.model import Item
from memos_vllm.errors import Unprocessable
from memos_vllm.parametric.training.weights import Answered, ContextKV, Weights
from memos_vllm.prompt.sentences import sentences
from memos_vllm.writer.base import Message

_REPEAT = "Repeat these records, word by word."
_REST = "How does this go on? {}"
_LONGEST_REFERENCE = 1024
"""Tokens of an answer that repeats the text."""
_LEAST_PLACES = 4
_MOST_SENTENCES = 32
_BATCH = 4


@dataclasses.dataclass(frozen=True)
class Whole:
    """KV of a chat's beginning with a text, in full."""

    frame: Frame
    kv: torch.Tensor
    """(layers, 2, tokens, kv_heads, head_dim) of the head and the text."""

    @classmethod
    def of(cls, frame: Frame) -> Whole:
        """Compute it. Raises Unprocessable: the model's keys cannot be moved."""
        config = frame.weights.model.config
        # Eager attention, which is faster for the short lessons of adapters, holds all weights of a long text.
        frame.weights.model.set_attn_implementation("sdpa")
        if (problem := rotation_problem(config, config)) is not None:
            raise Unprocessable(f"no compact of this model: {problem}")
        return cls(frame, kv_of(frame.weights, [*frame.head, *frame.tokens]))

    @property
    def start(self) -> int:
        """Position of the text."""
        return len(self.frame.head)

    @property
    def head(self) -> torch.Tensor:
        return self.kv[:, :, : self.start]

    def with_text(self) -> ContextKV:
        return ContextKV(self.kv)

    def rotation(self) -> Rotation:
        """Of the model's keys."""
        return _rotation_of(self.frame.weights)

    def behind(self, compact: torch.Tensor) -> ContextKV:
        """The head and a compact, (layers, 2, places, kv_heads, head_dim)."""
        return ContextKV(torch.cat([self.head, compact.to(self.kv.dtype)], dim=2))


@torch.inference_mode()
def kv_of(weights: Weights, tokens: Sequence[int]) -> torch.Tensor:
    """(layers, 2, tokens, kv_heads, head_dim)"""
    from transformers import DynamicCache

    cache: Any = DynamicCache()
    given = torch.tensor([list(tokens)], device=weights.device)
    weights.model.base_model(input_ids=given, past_key_values=cache, use_cache=True)
    layers = [torch.stack([each.keys[0], each.values[0]]) for each in cache.layers]
    return torch.stack(layers).transpose(2, 3).contiguous()


def places_for(tokens: int, ratio: float, places: int | None) -> int:
    """Number of places. Raises Unprocessable: not fewer than tokens."""
    wanted = places if places is not None else max(_LEAST_PLACES, round(tokens / ratio))
    if wanted >= tokens:
        raise Unprocessable(
            f"a compact of {wanted} places is no shorter than the text, which has {tokens} tokens"
        )
    return wanted


def references(frame: Frame, items: Sequence[Item]) -> list[Answered]:
    """Chats behind a text whose queries a compact has to answer: the text, repeated and continued.

    Raises:
        Unprocessable: the text leaves no room in the model's context.
    """
    body = "\n".join(item.text for item in items)
    found = [frame.behind(_asked(_REPEAT), body)]
    known = list(beginnings(items))
    for start, sentence in known[:: -(-len(known) // _MOST_SENTENCES) or 1]:
        found.append(frame.behind(_asked(_REST.format(start)), sentence))
    room = frame.weights.model.config.max_position_embeddings - len(frame.head) - len(frame.tokens)
    fitting = []
    for each in found:
        most = min(_LONGEST_REFERENCE, room - len(each.prompt))
        if most > 0:
            fitting.append(dataclasses.replace(each, answer=each.answer[:most]))
    if not fitting:
        raise Unprocessable("the text fills the model's context: nothing can be asked behind it")
    return fitting


def beginnings(items: Sequence[Item]) -> Iterator[tuple[str, str]]:
    """(first half, whole) of each sentence."""
    for item in items:
        for sentence in sentences(item.text):
            words = sentence.split()
            yield " ".join(words[: max(1, len(words) // 2)]), sentence


@torch.inference_mode()
def matched(
    whole: Whole,
    behind: Sequence[Answered],
    places: int,
    done: Callable[[int, int], None],
) -> torch.Tensor:
    """A compact by attention matching: (layers, 2, places, kv_heads, head_dim) float32.

    Args:
        behind: chats behind the text, whose queries are the reference.
        done: called with (finished steps, all steps); may raise to stop.
    """
    weights, start = whole.frame.weights, whole.start
    end = whole.kv.shape[2]
    layers = whole.kv.shape[0]
    steps = len(behind) + layers
    queries: dict[int, list[torch.Tensor]] = {}
    shares: dict[int, list[torch.Tensor]] = {}
    for number, each in enumerate(behind):
        tokens = torch.tensor([[*each.prompt, *each.answer]], device=weights.device)
        with watching(weights.model, start, end) as watched:
            weights.model.base_model(
                input_ids=tokens, past_key_values=whole.with_text().cache(1), use_cache=True
            )
        for layer, seen in watched.items():
            queries.setdefault(layer, []).extend(seen.queries)
            shares.setdefault(layer, []).extend(seen.shares)
        done(number + 1, steps)
    move = _rotation_of(weights).by(places - (end - start))
    made = []
    for layer in range(layers):
        keys, values = match(
            whole.kv[layer, 0, start:],
            whole.kv[layer, 1, start:],
            torch.cat(queries[layer]),
            torch.cat(shares[layer]),
            places,
        )
        made.append(torch.stack([move(keys), values]))
        done(len(behind) + layer + 1, steps)
    return torch.stack(made)


@torch.inference_mode()
def divergence_from(
    whole: Whole,
    compact: torch.Tensor,
    behind: Sequence[Answered],
    teacher: Sequence[tuple[Answered, ContextKV | None]],
    done: Callable[[int], None],
) -> float:
    """Mean KL of the answers with a compact from a teacher's, nats for each token.

    Args:
        teacher: for each of `behind`, the same answer in the teacher's chat, and the KV before it.
    """
    weights, total, count = whole.frame.weights, 0.0, 0
    for number, (mine, (theirs, before)) in enumerate(zip(behind, teacher, strict=True)):
        exact = weights.logits([theirs], before=before).float().log_softmax(-1)
        other = weights.logits([mine], before=whole.behind(compact)).float().log_softmax(-1)
        total += float((exact.exp() * (exact - other)).sum())
        count += len(exact)
        done(number + 1)
    return total / max(1, count)


@torch.inference_mode()
def divergence_of(
    whole: Whole, compact: torch.Tensor, behind: Sequence[Answered], done: Callable[[int], None]
) -> float:
    """Mean KL of the answers with a compact from those with the text in front, nats for each token.

    Args:
        behind: chats behind the text.
    """
    weights, total, count = whole.frame.weights, 0.0, 0
    order = sorted(behind, key=lambda each: len(each.prompt) + len(each.answer))
    for start in range(0, len(order), _BATCH):
        batch = order[start : start + _BATCH]
        exact, other = (
            weights.logits(batch, before=before).float().log_softmax(-1)
            for before in (whole.with_text(), whole.behind(compact))
        )
        total += float((exact.exp() * (exact - other)).sum())
        count += len(exact)
        done(start + len(batch))
    return total / max(1, count)


def _rotation_of(weights: Weights) -> Rotation:
    config = weights.model.config
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return rotation(config, size)


def _asked(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]
