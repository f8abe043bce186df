"""The training process: `python -m memos_vllm.parametric.training.process FOLDER [PARENT]`.

Reads its inputs from the folder and writes its results there (`parametric.training.order`).  On SIGTERM
it writes a checkpoint and ends after the current step; started again, it resumes from there.  When the
process PARENT ends, it gets a SIGTERM, too.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from safetensors.torch import load_file

from memos_vllm import lifeline
from memos_vllm.errors import BadRequest, MemosError
from memos_vllm.parametric.training.decode import decode
from memos_vllm.parametric.training.exam import forgetting, recall, verdict
from memos_vllm.parametric.training.order import JobFolder, Order, Progress, Report, write_json
from memos_vllm.parametric.training.student import Student
from memos_vllm.parametric.training.study import Lesson, Lessons, question_messages, study
from memos_vllm.parametric.training.targets import teach
from memos_vllm.parametric.training.weights import Answered, ContextKV, Weights
from memos_vllm.prompt.layout import place
from memos_vllm.writer.base import Message

log = logging.getLogger(__name__)
_WRITE_SECONDS = 0.5
_NOTICE_SECONDS = 10.0
"""For a checkpoint after the parent's end; less than a lease, after which another process takes the job."""


class Stopped(Exception):
    """The run ends early: it was stopped, or reached its time limit. Finished phases stay on disk."""


class Clock:
    """Progress of one run, and its reasons to stop."""

    def __init__(self, folder: JobFolder, order: Order) -> None:
        self._folder, self._order = folder, order
        self._before = folder.progress().seconds
        self._started = self._written = time.monotonic()
        self._stop_requested = False
        self._parent = os.getppid()
        self.state = Progress()
        signal.signal(signal.SIGTERM, self._request_stop)
        signal.signal(signal.SIGINT, self._request_stop)

    @property
    def seconds(self) -> float:
        """Run time over all runs of the job."""
        return round(self._before + time.monotonic() - self._started, 1)

    def phase(self, name: str) -> None:
        """Begin a phase."""
        self.state = Progress.model_validate({"phase": name, "seconds": self.seconds})
        self._folder.write_progress(self.state)

    def done(self, count: int, total: int, loss: float | None = None) -> None:
        """Record the progress of the phase. Raises Stopped."""
        self.state.done, self.state.total, self.state.loss = count, total, loss
        self.state.seconds = self.seconds
        if time.monotonic() - self._written > _WRITE_SECONDS or count == total:
            self._folder.write_progress(self.state)
            self._written = time.monotonic()
        if os.getppid() != self._parent:
            raise Stopped("the process that started it has ended")
        if self._stop_requested:
            raise Stopped("it was stopped")
        if self.seconds > self._order.max_seconds:
            raise Stopped(f"it reached its time limit ({self._order.max_seconds:g} s)")

    def _request_stop(self, _signal: int, _frame: FrameType | None) -> None:
        self._stop_requested = True


Work = Callable[[JobFolder, Order, "Clock", Report], None]


def run(folder: JobFolder, kinds: Mapping[str, Work] | None = None) -> Report:
    """Run the job and write its report.

    Args:
        kinds: what is done for each kind of order; None: those of adapters.
    """
    report = Report(outcome="failed")
    try:
        order = folder.order()
    except MemosError as error:
        report.reasons = [error.message]
        folder.write_report(report)
        return report
    clock = Clock(folder, order)
    _set_threads(order)
    try:
        own: dict[str, Work] = {"distill": _distill, "decode": _decode, "examine": _examine_given}
        known = kinds if kinds is not None else own
        known[order.kind](folder, order, clock, report)
    except Stopped as stop:
        report.outcome, report.reasons = "stopped", [str(stop)]
    except MemosError as error:
        report.reasons = [error.message]
    except MemoryError:
        report.reasons = ["the process ran out of memory"]
    report.seconds = clock.seconds
    folder.write_report(report)
    clock.phase("ended")
    return report


def _set_threads(order: Order) -> None:
    import torch

    torch.set_num_threads(order.threads or len(os.sched_getaffinity(0)))


def _distill(folder: JobFolder, order: Order, clock: Clock, report: Report) -> None:
    weights = Weights(order.model, order.revision, order.device)
    lessons = lessons_of(folder, order, weights, clock)
    report.lessons = len(lessons.lessons)
    if not any(lesson.before is not None for lesson in lessons.lessons):
        report.outcome = "refused"
        report.reasons = [
            "the self-study found no question on the text that the model answers correctly"
        ]
        return
    clock.phase("teaching")
    shown, before = teacher_inputs(folder, order, weights, lessons.lessons)
    plain = [
        weights.answered(question_messages(None, lesson.question, weights.escape), lesson.answer)
        for lesson in lessons.lessons
    ]
    targets = teach(
        weights,
        shown,
        order.recipe.top_k,
        folder.targets,
        lambda count: clock.done(count, len(shown)),
        before,
    )
    clock.phase("training")
    start = folder.start if folder.start.exists() else None
    student = Student(weights, order.recipe, plain, start)
    try:
        student.train(targets, folder.checkpoint, clock.done)
    finally:
        report.steps = student.step
        report.loss = round(student.loss, 4) if student.loss == student.loss else None
    clock.phase("examining")
    _examine(order, lessons, weights, student, clock, report)
    student.save(folder.adapter)


def teacher_inputs(
    folder: JobFolder, order: Order, weights: Weights, lessons: Sequence[Lesson]
) -> tuple[list[Answered], list[ContextKV | None]]:
    """The lessons with the teacher's context: as text in the prompts, or as KV before them.

    Returns:
        (the lessons, the KV before each; None: none)

    Raises:
        BadRequest: the KV is of another model, or of other tokens.
    """
    if order.context is None:
        shown = [
            weights.answered(
                question_messages(lesson.before, lesson.question, weights.escape), lesson.answer
            )
            for lesson in lessons
        ]
        return shown, [None] * len(shown)
    context, stored = order.context, weights.context(load_file(folder.context)["kv"])
    if stored.tokens != len(context.tokens):
        raise BadRequest("the context's KV and tokens differ in length")
    shown = []
    for lesson in lessons:
        asked: list[Message] = [{"role": "user", "content": lesson.question}]
        if lesson.before is None:
            shown.append(weights.answered(asked, lesson.answer))
            continue
        whole = weights.answered(place(asked, context.texts, []), lesson.answer)
        if whole.prompt[: stored.tokens] != context.tokens:
            raise BadRequest("the KV is of other tokens than the beginning of this model's chat")
        shown.append(dataclasses.replace(whole, prompt=whole.prompt[stored.tokens :]))
    return shown, [None if lesson.before is None else stored for lesson in lessons]


def _decode(folder: JobFolder, order: Order, clock: Clock, report: Report) -> None:
    from peft import PeftModel

    weights = Weights(order.model, order.revision, order.device)
    adapted: Any = PeftModel.from_pretrained(weights.model, str(folder.given))
    adapted.eval()
    clock.phase("questioning")
    report.statements = decode(weights, adapted, order.decoding, clock.done)
    report.outcome = "passed" if report.statements else "refused"
    if not report.statements:
        report.reasons = [
            "no statement was sampled often enough without the base model making it, too"
        ]


@dataclasses.dataclass(frozen=True)
class _Given:
    """An adapter that another process trained, on the base model."""

    model: Any

    def base(self) -> Any:
        """A context manager that disables the adapter."""
        return self.model.disable_adapter()


def _examine_given(folder: JobFolder, order: Order, clock: Clock, report: Report) -> None:
    from peft import PeftModel

    weights = Weights(order.model, order.revision, order.device)
    student = _Given(PeftModel.from_pretrained(weights.model, str(folder.given)))
    student.model.eval()
    clock.phase("examining")
    if order.exam:
        report.recall, report.said = recall(
            weights,
            student,
            order,
            order.exam,
            lambda count: clock.done(count, 3 * len(order.exam)),
        )
    report.perplexity_ratio = round(forgetting(weights, student), 4)
    report.reasons = verdict(order.gate, report.recall, report.perplexity_ratio, needs_exam=False)
    report.outcome = "refused" if report.reasons else "passed"


def lessons_of(folder: JobFolder, order: Order, weights: Weights, clock: Clock) -> Lessons:
    if folder.lessons.exists():
        return Lessons.model_validate_json(folder.lessons.read_bytes())
    clock.phase("studying")
    lessons = study(order, weights, weights.escape, clock.done)
    write_json(folder.lessons, lessons.model_dump(mode="json"))
    return lessons


def _examine(
    order: Order, lessons: Lessons, weights: Weights, student: Student, clock: Clock, report: Report
) -> None:
    exam = lessons.exam
    if exam:
        report.recall, report.said = recall(
            weights, student, order, exam, lambda count: clock.done(count, 3 * len(exam))
        )
    report.perplexity_ratio = round(forgetting(weights, student), 4)
    with_text, without = (
        len(weights.prompt(question_messages(before, "?", weights.escape)))
        for before in (order.passages, None)
    )
    report.prompt_tokens_saved = with_text - without
    report.reasons = verdict(order.gate, report.recall, report.perplexity_ratio)
    report.outcome = "refused" if report.reasons else "passed"


def main(arguments: list[str], kinds: Mapping[str, Work] | None = None) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    os.nice(10)  # requests on this machine take precedence
    if len(arguments) > 1:
        lifeline.end_with(int(arguments[1]), _NOTICE_SECONDS)
    report = run(JobFolder(Path(arguments[0])), kinds)
    log.info("%s after %.0f s: %s", report.outcome, report.seconds, "; ".join(report.reasons))
    return {"passed": 0, "refused": 0, "stopped": 3}.get(report.outcome, 1)


def disable_progress_bar() -> None:
    from transformers.utils import logging as transformers_logging

    untyped: Any = transformers_logging
    untyped.disable_progress_bar()


if __name__ == "__main__":
    disable_progress_bar()
    sys.exit(main(sys.argv[1:]))
