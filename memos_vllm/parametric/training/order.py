"""A training job as a folder: what is wanted, how far it is, what came of it.

    order.json          what is wanted; written once, before the process starts
    lessons.json        what the model wrote while it studied; there: it is not written again
    targets.safetensors what the teacher says at each token of an answer
    checkpoint/         the adapter and the optimizer, every so many steps
    progress.json       the phase, and how much of it is done
    adapter/            PEFT's form
    given/              decode: the adapter that is questioned
    start/              the adapter that training begins with, where there is one
    context.safetensors KV that the teacher reads, (layers, 2, tokens, kv_heads, head_dim)
    report.json         the end: what was measured, or why it ended

Whoever holds the folder can stop the process at any moment and start it again: finished phases are
read, the last one goes on from its checkpoint.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from memos_vllm.cube.model import Item, Text
from memos_vllm.errors import DamagedPayload


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Recipe(Strict):
    """How an adapter is trained; the defaults are those of `benchmarks/recall`."""

    method: Literal["distillation", "likelihood"] = Field(
        "distillation",
        description="distillation: the adapter alone gives the distribution that the model gives with "
        "the text before it; likelihood: it gives the written answers (the baseline)",
    )
    rank: int = Field(
        16, ge=1, le=512, description="if not given: less, where the server takes less"
    )
    alpha: int | None = Field(None, ge=1, description="default: twice the rank")
    learning_rate: float = Field(2e-3, gt=0, lt=1)
    epochs: int = Field(6, ge=1, description="times that each lesson is taken")
    batch: int = Field(8, ge=1, description="lessons in one step")
    questions: int = Field(9, ge=1, le=64, description="asked about each sentence")
    answer_tokens: int = Field(64, ge=1, le=2048, description="longest answer")
    passage_tokens: int = Field(
        128, ge=8, description="what stands before the teacher: pieces of at most so many"
    )
    top_k: int = Field(32, ge=1, le=512, description="likeliest tokens that are compared")
    unrelated: float = Field(
        0.5, ge=0, le=4, description="lessons about other things, for each one about the text"
    )
    seed: int = 0


class Question(Strict):
    """One question of the exam, with what its answer must contain."""

    question: Text = Field(max_length=2000)
    answer: Text = Field(max_length=500)


class Gate(Strict):
    """What an adapter has to reach before it serves."""

    recall_of_ceiling: float = Field(
        0.8, ge=0, le=1, description="right answers, of those that the text in the prompt gives"
    )
    perplexity_ratio: float = Field(
        1.02, ge=1, description="on unrelated text, of the base model's"
    )


class Decoding(Strict):
    """How an adapter is questioned."""

    topics: list[str] = Field(default_factory=list)
    samples: int = Field(5, ge=2, le=32)
    agreement: float = Field(0.6, gt=0, le=1)


class Context(Strict):
    """KV that stands before the teacher in place of text: a prompt's beginning, computed by the engine."""

    tokens: list[int] = Field(description="of that beginning, one for each place in the file")
    texts: list[str] = Field(description="what memory says in it, as it is placed in a prompt")


class Order(Strict):
    kind: Literal["distill", "decode"] = "distill"
    model: str = Field(description="folder or name of the base model's weights")
    revision: str | None = None
    sources: dict[str, str] = Field(
        default_factory=dict, description="cubes that it was made from, and which versions"
    )
    passages: list[Item] = Field(default_factory=list, description="what is taught")
    context: Context | None = Field(
        None, description="the teacher reads kept KV (`context.safetensors`), and not the passages"
    )
    shown_tokens: int = Field(
        1024, ge=1, description="of the text before a question of the exam, as in a served prompt"
    )
    exam: list[Question] = Field(default_factory=list, description="empty: written while studying")
    recipe: Recipe = Recipe()
    gate: Gate = Gate()
    decoding: Decoding = Decoding()
    max_seconds: float = Field(3600.0, gt=0)
    max_bytes: int = Field(16 << 30, gt=0, description="of memory")
    device: str | None = Field(None, description="torch device; default: CUDA where it is")
    threads: int | None = Field(None, ge=1, description="on a CPU; default: one for each core")


class Progress(Strict):
    phase: Literal[
        "waiting", "studying", "teaching", "training", "examining", "questioning", "ended"
    ] = "waiting"
    done: int = 0
    total: int = 0
    loss: float | None = None
    seconds: float = 0.0


class Recall(Strict):
    """Right answers among all questions, with the text, without any memory, with the adapter."""

    questions: int
    ceiling: float
    floor: float
    adapter: float


class Report(Strict):
    """How it ended."""

    outcome: Literal["passed", "refused", "stopped", "failed"]
    reasons: list[str] = Field(default_factory=list)
    recall: Recall | None = None
    perplexity_ratio: float | None = None
    lessons: int = 0
    steps: int = 0
    loss: float | None = None
    prompt_tokens_saved: int = 0
    seconds: float = 0.0
    said: list[str] = Field(
        default_factory=list, description="all that the adapter answered in the exam"
    )
    precision: float | None = Field(
        None, description="decode: share of the statements that the sources say"
    )
    statements: list[str] = Field(
        default_factory=list, description="decode: what it was found to say"
    )


class JobFolder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.lessons = path / "lessons.json"
        self.targets = path / "targets.safetensors"
        self.checkpoint = path / "checkpoint"
        self.adapter = path / "adapter"
        self.given = path / "given"
        """Decode: the adapter that is questioned, in PEFT's form."""
        self.start = path / "start"
        """The adapter that training begins with, in PEFT's form; absent: one that does nothing."""
        self.context = path / "context.safetensors"
        self.log = path / "log.txt"

    @classmethod
    def make(cls, path: Path, order: Order) -> Self:
        path.mkdir(parents=True, mode=0o700, exist_ok=True)
        folder = cls(path)
        folder._write("order.json", order)
        return folder

    def has_order(self) -> bool:
        return (self.path / "order.json").exists()

    def order(self) -> Order:
        """Raises DamagedPayload."""
        try:
            return Order.model_validate_json((self.path / "order.json").read_bytes())
        except (OSError, ValidationError) as error:
            raise DamagedPayload(f"the training job has no order: {error}") from error

    def progress(self) -> Progress:
        try:
            return Progress.model_validate_json((self.path / "progress.json").read_bytes())
        except FileNotFoundError:
            return Progress()

    def say(self, progress: Progress) -> None:
        self._write("progress.json", progress)

    def report(self) -> Report | None:
        """None: it has not ended."""
        try:
            return Report.model_validate_json((self.path / "report.json").read_bytes())
        except FileNotFoundError:
            return None

    def forget_end(self) -> None:
        """It is taken up again."""
        (self.path / "report.json").unlink(missing_ok=True)

    def end(self, report: Report) -> None:
        self._write("report.json", report)

    def _write(self, name: str, what: BaseModel) -> None:
        write_json(self.path / name, what.model_dump(mode="json"))


def write_json(path: Path, value: Any) -> None:
    """Whole or not at all."""
    making = path.with_name(f".{path.name}.making")
    making.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    os.replace(making, path)  # noqa: PTH105  # Path.replace is the same call
