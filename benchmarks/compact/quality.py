"""What compacts keep, by the number of places: attention matching, distillation and their rivals.

Facts that the model cannot know, with questions in other words than the text's.  Rivals at the same number of
places: the KV of the text's first tokens, that of the tokens that are read most, and a summary that the model
writes, as text.  Divergence is that of held-out answers from those with the whole text in the prompt.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from benchmarks.recall.facts import cubes
from memos_vllm.compacts.frame import Frame
from memos_vllm.compacts.make import Whole, divergence_of, matched, places_for, references
from memos_vllm.compacts.process import made, write
from memos_vllm.cube.model import Item
from memos_vllm.parametric.training.everyday import UNRELATED
from memos_vllm.parametric.training.order import (
    Compacting,
    JobFolder,
    Order,
    Question,
    Recipe,
    Report,
)
from memos_vllm.parametric.training.process import Clock, run
from memos_vllm.parametric.training.study import is_right
from memos_vllm.parametric.training.weights import Answered, ContextKV, Weights
from memos_vllm.prompt.layout import quote_cube
from memos_vllm.writer.base import Ask

RATIOS = (2.0, 4.0, 8.0)
DISTILLED = (4.0, 8.0)
"""Distillation takes minutes."""
ANSWER_TOKENS = 24
_SUMMARISE = "Summarise these records in at most {} words. Keep names, numbers and code words."


@dataclasses.dataclass
class Memory:
    """A cube of facts, as the model reads it, with an exam."""

    whole: Whole
    items: list[Item]
    exam: list[Question]
    answers: list[Answered]
    unrelated: list[Answered]

    @classmethod
    def of(cls, weights: Weights, first: int, count: int) -> Memory:
        chosen = cubes(first + count)[first:]
        items = [Item(text=cube.text) for cube in chosen]
        exam = [question for cube in chosen for question in cube.exam]
        frame = Frame.of(weights, quote_cube(None, items, weights.escape))
        answers = [frame.behind(_asked(each.question), each.answer) for each in exam]
        unrelated = [frame.behind(_asked(question), answer) for question, answer in UNRELATED]
        return cls(Whole.of(frame), items, exam, answers, unrelated)

    @property
    def tokens(self) -> int:
        return len(self.whole.frame.tokens)

    def recall(self, before: ContextKV) -> float:
        """Share of the exam that is answered right behind this KV."""
        frame = self.whole.frame
        tails = [frame.behind(_asked(each.question), "").prompt for each in self.exam]
        replies = frame.weights.continued(tails, before, ANSWER_TOKENS, lambda count: None)
        return _share(replies, self.exam)

    def row(self, way: str, kv: torch.Tensor, seconds: float) -> dict[str, Any]:
        def done(count: int) -> None:
            return None

        return {
            "part": "quality",
            "way": way,
            "tokens": self.tokens,
            "places": kv.shape[2],
            "times_shorter": round(self.tokens / kv.shape[2], 2),
            "kl": round(divergence_of(self.whole, kv, self.answers, done), 4),
            "kl_unrelated": round(divergence_of(self.whole, kv, self.unrelated, done), 4),
            "recall": self.recall(self.whole.behind(kv)),
            "seconds": round(seconds, 1),
        }


def rows(
    weights: Weights, model: str, steps: int, counts: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """One row for each way and size.

    Args:
        steps: of distillation; 0: it is left out.
        counts: subjects in each memory, three facts each.
    """
    first = 0
    for count in counts:
        memory = Memory.of(weights, first, count)
        first += count
        whole = memory.whole
        text = whole.kv[:, :, whole.start :]
        yield memory.row("text", text, 0.0)
        floor = weights.write([Ask(_asked(q.question), ANSWER_TOKENS) for q in memory.exam], _none)
        yield {
            "part": "quality",
            "way": "no memory",
            "tokens": 0,
            "recall": _share(floor, memory.exam),
        }
        references_of_text = references(whole.frame, memory.items)
        lessons: Path | None = None
        for ratio in RATIOS:
            places = places_for(memory.tokens, ratio, None)
            started = time.perf_counter()
            kv = matched(whole, references_of_text, places, lambda count, total: None)
            yield memory.row("match", kv, time.perf_counter() - started)
            yield memory.row("first tokens", text[:, :, :places], 0.0)
            yield _summary(memory, places)
            if steps and ratio in DISTILLED:
                kv, seconds, lessons = _distilled(memory, model, places, steps, lessons)
                yield memory.row("distil", kv, seconds)


def together(weights: Weights, counts: Sequence[int], ratio: float) -> Iterator[dict[str, Any]]:
    """Several compacts in one prompt, each made by itself: recall of all their facts."""
    memories, first = [], 0
    for count in counts:
        memories.append(Memory.of(weights, first, count))
        first += count
    exam = [question for memory in memories for question in memory.exam]
    frames = [memory.whole.frame for memory in memories]
    head = frames[0].head
    move = memories[0].whole.rotation()
    compacts, shift = [], 0
    for memory in memories:
        places = places_for(memory.tokens, ratio, None)
        kv = matched(
            memory.whole, references(memory.whole.frame, memory.items), places, lambda c, t: None
        )
        kv = kv.clone()  # of inference mode
        kv[:, 0] = torch.stack([move.by(shift)(keys) for keys in kv[:, 0]])
        compacts.append(kv.to(memory.whole.kv.dtype))
        shift += places
    tails = [frames[0].behind(_asked(each.question), "").prompt for each in exam]
    several = ContextKV(torch.cat([memories[0].whole.head, *compacts], dim=2))
    items = [item for memory in memories for item in memory.items]
    all_text = Frame.of(weights, quote_cube(None, items, weights.escape))
    whole = Whole.of(all_text)
    replies = weights.continued(tails, several, ANSWER_TOKENS, _none)
    with_text = weights.continued(tails, whole.with_text(), ANSWER_TOKENS, _none)
    yield {
        "part": "together",
        "compacts": len(memories),
        "times_shorter": ratio,
        "tokens": len(all_text.tokens),
        "head": len(head),
        "recall": _share(replies, exam),
        "recall_text": _share(with_text, exam),
    }


def _distilled(
    memory: Memory, model: str, places: int, steps: int, lessons: Path | None
) -> tuple[torch.Tensor, float, Path]:
    """(the compact, seconds without the lessons, the lessons: the same for every size)"""
    order = Order(
        kind="compact",
        model=model,
        passages=memory.items,
        exam=memory.exam,
        recipe=Recipe(questions=3),
        compacting=Compacting(items=memory.items, method="distil", places=places, steps=steps),
    )
    folder = JobFolder.make(Path(tempfile.mkdtemp()), order)
    if lessons is not None:
        folder.lessons.write_bytes(lessons.read_bytes())
    report = run(folder, {"compact": _without_gate})
    if report.outcome != "passed":
        raise RuntimeError(f"no compact: {report.reasons}")
    return load_file(folder.compact)["kv"], report.seconds, folder.lessons


def _without_gate(folder: JobFolder, order: Order, clock: Clock, report: Report) -> None:
    whole, kv, _, _ = made(folder, order, clock, report)
    write(folder, whole, kv, order.compacting.method)
    report.outcome = "passed"


def _summary(memory: Memory, tokens: int) -> dict[str, Any]:
    """The model's own summary, cut to as many tokens, in place of the text."""
    weights, frame = memory.whole.frame.weights, memory.whole.frame
    asked = frame.behind(_asked(_SUMMARISE.format(tokens)), "").prompt
    (written,) = weights.continued([asked], memory.whole.with_text(), tokens, _none)
    shorter = Frame.of(weights, quote_cube(None, [Item(text=written or "-")], weights.escape))
    whole = Whole.of(shorter)
    tails = [shorter.behind(_asked(each.question), "").prompt for each in memory.exam]
    replies = weights.continued(tails, whole.with_text(), ANSWER_TOKENS, _none)
    return {
        "part": "quality",
        "way": "summary",
        "tokens": memory.tokens,
        "places": len(shorter.tokens),
        "times_shorter": round(memory.tokens / len(shorter.tokens), 2),
        "recall": _share(replies, memory.exam),
    }


def _share(replies: Sequence[str], exam: Sequence[Question]) -> float:
    right = sum(is_right(reply, each.answer) for reply, each in zip(replies, exam, strict=True))
    return round(right / len(exam), 4)


def _asked(question: str) -> list[Any]:
    return [{"role": "user", "content": question}]


def _none(count: int) -> None:
    return None
