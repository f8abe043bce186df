"""A training job as a folder: order, intermediate results, progress and report.

    order.json          the order; written once, before the process starts
    lessons.json        lessons of the self-study; reused if present
    targets.safetensors the teacher's distribution at each token of the answers
    checkpoint/         the adapter and the optimizer, saved periodically
    progress.json       the phase, and its progress
    adapter/            the trained adapter, in PEFT's format
    given/              decode, examine: an adapter, in PEFT's format
    start/              optional: the adapter that training starts from, in PEFT's format
    context.safetensors optional: KV for the teacher, (layers, 2, tokens, kv_heads, head_dim)
    compact.safetensors the compact's KV, (layers, 2, places, kv_heads, head_dim)
    report.json         the end: measurements, or the reason

The process can be stopped at any time and started again: it reuses finished phases and resumes
training from the checkpoint.
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
    """Hyperparameters of the training; the defaults are those of `benchmarks/recall`."""

    method: Literal["distillation", "likelihood"] = Field(
        "distillation",
        description="distillation: match the distribution of the base model with the text in its "
        "prompt; likelihood: predict the written answers (baseline)",
    )
    rank: int = Field(
        16, ge=1, le=512, description="if omitted: at most `--max-lora-rank` of the server"
    )
    alpha: int | None = Field(None, ge=1, description="default: twice the rank")
    learning_rate: float = Field(2e-3, gt=0, lt=1)
    epochs: int = Field(6, ge=1, description="passes over the lessons")
    batch: int = Field(8, ge=1, description="lessons per step")
    questions: int = Field(9, ge=1, le=64, description="questions per sentence")
    answer_tokens: int = Field(64, ge=1, le=2048, description="longest answer, tokens")
    passage_tokens: int = Field(
        128, ge=8, description="longest passage in the teacher's prompt, tokens"
    )
    top_k: int = Field(32, ge=1, le=512, description="most likely tokens in the loss")
    unrelated: float = Field(
        0.5, ge=0, le=4, description="lessons on unrelated subjects per lesson on the text"
    )
    seed: int = 0


class Question(Strict):
    """A question of the exam, with the words that its answer must contain."""

    question: Text = Field(max_length=2000)
    answer: Text = Field(max_length=500)


class Gate(Strict):
    """Thresholds that an adapter must reach to become active."""

    recall_of_ceiling: float = Field(
        0.8,
        ge=0,
        le=1,
        description="minimum recall, relative to the recall with the text in the prompt",
    )
    perplexity_ratio: float = Field(
        1.02, ge=1, description="maximum perplexity of unrelated text, relative to the base model's"
    )


class Decoding(Strict):
    """Parameters of decoding an adapter."""

    topics: list[str] = Field(default_factory=list)
    samples: int = Field(5, ge=2, le=32)
    agreement: float = Field(0.6, gt=0, le=1)
    rounds: int = Field(3, ge=1, le=10)


class Compacting(Strict):
    """Parameters of a compact: KV of a text in fewer places than it has tokens."""

    name: str | None = Field(None, description="of the cube, which stands in front of its text")
    items: list[Item] = Field(default_factory=list, description="the text, as it is stored")
    method: Literal["match", "distil"] = "match"
    ratio: float = 2.0
    places: int | None = None
    steps: int = 140
    learning_rate: float = 0.02
    most_kl: float = Field(0.5, description="nats; above, the compact is refused")


class Context(Strict):
    """KV of a prompt prefix, computed by the engine, in place of the text in the teacher's prompt."""

    tokens: list[int] = Field(description="tokens of the prefix, one per position in the file")
    texts: list[str] = Field(description="texts of memory in the prefix, as placed in a prompt")


class Order(Strict):
    kind: Literal["distill", "decode", "compact", "examine"] = "distill"
    model: str = Field(description="folder or name of the base model's weights")
    revision: str | None = None
    sources: dict[str, str] = Field(
        default_factory=dict, description="source cubes, with their versions"
    )
    passages: list[Item] = Field(default_factory=list, description="the text to learn")
    context: Context | None = Field(
        None,
        description="stored KV for the teacher (`context.safetensors`) instead of the passages",
    )
    shown_tokens: int = Field(
        1024,
        ge=1,
        description="tokens of text before a question of the exam, as in a served prompt",
    )
    exam: list[Question] = Field(
        default_factory=list, description="empty: held out of the self-study"
    )
    recipe: Recipe = Recipe()
    gate: Gate = Gate()
    decoding: Decoding = Decoding()
    compacting: Compacting = Compacting()
    max_seconds: float = Field(3600.0, gt=0)

    max_bytes: int = Field(16 << 30, gt=0, description="memory limit")
    device: str | None = Field(None, description="torch device; default: CUDA where available")
    threads: int | None = Field(None, ge=1, description="CPU threads; default: one per core")

    @property
    def studies(self) -> bool:
        """Whether the model writes lessons first."""
        return self.kind == "distill" or (
            self.kind == "compact" and self.compacting.method == "distil"
        )


class Progress(Strict):
    phase: Literal[
        "waiting",
        "studying",
        "teaching",
        "matching",
        "training",
        "examining",
        "questioning",
        "ended",
    ] = "waiting"
    done: int = 0
    total: int = 0
    loss: float | None = None
    seconds: float = 0.0


class Recall(Strict):
    """Share of right answers with the text (ceiling), without memory (floor), with the adapter or compact."""

    questions: int
    ceiling: float | None = Field(None, description="null: there is no text to show")
    floor: float
    adapter: float


class Report(Strict):
    """Outcome of a job."""

    outcome: Literal["passed", "refused", "stopped", "failed"]
    reasons: list[str] = Field(default_factory=list)
    recall: Recall | None = None
    perplexity_ratio: float | None = None
    lessons: int = 0
    steps: int = 0
    loss: float | None = None
    prompt_tokens_saved: int = 0
    places: int = Field(0, description="compact: tokens of a prompt that stand for the text")
    kl: float | None = Field(
        None,
        description="compact: mean KL of held-out answers from those with the text in the prompt, nats",
    )
    seconds: float = 0.0
    kl_unrelated: float | None = Field(
        None, description="compact: the same of answers to questions on other subjects"
    )
    said: list[str] = Field(
        default_factory=list, description="answers of the adapter or compact in the exam"
    )
    precision: float | None = Field(
        None, description="decode: share of the statements that the sources support"
    )
    statements: list[str] = Field(default_factory=list, description="decode: the statements")


class JobFolder:
    """Files of one job, see the module's docstring."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lessons = path / "lessons.json"
        self.targets = path / "targets.safetensors"
        self.checkpoint = path / "checkpoint"
        self.adapter = path / "adapter"
        self.given = path / "given"
        self.start = path / "start"
        self.context = path / "context.safetensors"
        self.compact = path / "compact.safetensors"
        self.log = path / "log.txt"

    @classmethod
    def make(cls, path: Path, order: Order) -> Self:
        """Create the folder with an order."""
        path.mkdir(parents=True, mode=0o700, exist_ok=True)
        folder = cls(path)
        folder._write("order.json", order)
        return folder

    def has_order(self) -> bool:
        return (self.path / "order.json").exists()

    def order(self) -> Order:
        """Read the order. Raises DamagedPayload."""
        try:
            return Order.model_validate_json((self.path / "order.json").read_bytes())
        except (OSError, ValidationError) as error:
            raise DamagedPayload(f"the training job has no valid order: {error}") from error

    def progress(self) -> Progress:
        """Read the progress; `waiting` before the process wrote any."""
        try:
            return Progress.model_validate_json((self.path / "progress.json").read_bytes())
        except FileNotFoundError:
            return Progress()

    def write_progress(self, progress: Progress) -> None:
        self._write("progress.json", progress)

    def report(self) -> Report | None:
        """Read the report; None: the job has not ended."""
        try:
            return Report.model_validate_json((self.path / "report.json").read_bytes())
        except FileNotFoundError:
            return None

    def clear_report(self) -> None:
        """Remove the report of an earlier run, before a restart."""
        (self.path / "report.json").unlink(missing_ok=True)

    def write_report(self, report: Report) -> None:
        self._write("report.json", report)

    def _write(self, name: str, model: BaseModel) -> None:
        write_json(self.path / name, model.model_dump(mode="json"))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    partial = path.with_name(f".{path.name}.making")
    partial.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    os.replace(partial, path)  # noqa: PTH105  # Path.replace is the same call
