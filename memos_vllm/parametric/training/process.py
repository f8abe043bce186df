"""The process that trains: `python -m memos_vllm.parametric.training.process FOLDER`.

Everything that it needs is in the folder (`parametric.training.order`), everything that it makes goes there.  A
SIGTERM ends it after the step that it is in, with a checkpoint; started again, it goes on from there.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from safetensors.torch import load_file

from memos_vllm.errors import BadRequest, MemosError
from memos_vllm.parametric.training.decode import decode
from memos_vllm.parametric.training.exam import forgetting, recall, verdict
from memos_vllm.parametric.training.order import JobFolder, Order, Progress, Report, write_json
from memos_vllm.parametric.training.student import Student
from memos_vllm.parametric.training.study import Lesson, Lessons, study, told
from memos_vllm.parametric.training.targets import teach
from memos_vllm.parametric.training.weights import Answered, KeptContext, Weights
from memos_vllm.prompt.layout import place
from memos_vllm.writer.base import Message

log = logging.getLogger(__name__)
_SAY_SECONDS = 0.5


class Stopped(Exception):
    """Somebody ended it, or its time is over; what is done is kept."""


class Clock:
    """Progress of one run, and whether it has to end."""

    def __init__(self, folder: JobFolder, order: Order) -> None:
        self._folder, self._order = folder, order
        self._before = folder.progress().seconds
        self._started = self._said = time.monotonic()
        self._asked_to_end = False
        self._parent = os.getppid()
        self.state = Progress()
        signal.signal(signal.SIGTERM, self._end)
        signal.signal(signal.SIGINT, self._end)

    @property
    def seconds(self) -> float:
        """Over all runs of the job."""
        return round(self._before + time.monotonic() - self._started, 1)

    def phase(self, name: str) -> None:
        self.state = Progress.model_validate({"phase": name, "seconds": self.seconds})
        self._folder.say(self.state)

    def done(self, count: int, total: int, loss: float | None = None) -> None:
        """Raises Stopped."""
        self.state.done, self.state.total, self.state.loss = count, total, loss
        self.state.seconds = self.seconds
        if time.monotonic() - self._said > _SAY_SECONDS or count == total:
            self._folder.say(self.state)
            self._said = time.monotonic()
        if self._asked_to_end:
            raise Stopped("it was stopped")
        if os.getppid() != self._parent:
            raise Stopped("whoever started it is gone")
        if self.seconds > self._order.max_seconds:
            raise Stopped(f"its time is over ({self._order.max_seconds:g} s)")

    def _end(self, _signal: int, _frame: FrameType | None) -> None:
        self._asked_to_end = True


def run(folder: JobFolder) -> Report:
    """The job to its end, whichever that is."""
    report = Report(outcome="failed")
    try:
        order = folder.order()
    except MemosError as error:
        report.reasons = [error.message]
        folder.end(report)
        return report
    clock = Clock(folder, order)
    _take_threads(order)
    try:
        do = _distill if order.kind == "distill" else _decode
        do(folder, order, clock, report)
    except Stopped as stop:
        report.outcome, report.reasons = "stopped", [str(stop)]
    except MemosError as error:
        report.reasons = [error.message]
    except MemoryError:
        report.reasons = ["there was not enough memory"]
    report.seconds = clock.seconds
    folder.end(report)
    clock.phase("ended")
    return report


def _take_threads(order: Order) -> None:
    import torch

    torch.set_num_threads(order.threads or len(os.sched_getaffinity(0)))


def _distill(folder: JobFolder, order: Order, clock: Clock, report: Report) -> None:
    weights = Weights(order.model, order.revision, order.device)
    lessons = _lessons(folder, order, weights, clock)
    report.lessons = len(lessons.lessons)
    if not any(lesson.before is not None for lesson in lessons.lessons):
        report.outcome = "refused"
        report.reasons = [
            "the model found nothing to ask about the text that it could answer itself"
        ]
        return
    clock.phase("teaching")
    shown, before = as_taught(folder, order, weights, lessons.lessons)
    plain = [
        weights.answered(told(None, lesson.question, weights.escape), lesson.answer)
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


def as_taught(
    folder: JobFolder, order: Order, weights: Weights, lessons: Sequence[Lesson]
) -> tuple[list[Answered], list[KeptContext | None]]:
    """The lessons as the teacher sees them, and the KV that stands before each.

    Raises BadRequest: the KV is of another model, or of other tokens.
    """
    if order.context is None:
        shown = [
            weights.answered(told(lesson.before, lesson.question, weights.escape), lesson.answer)
            for lesson in lessons
        ]
        return shown, [None] * len(shown)
    context, kept = order.context, weights.context(load_file(folder.context)["kv"])
    if kept.tokens != len(context.tokens):
        raise BadRequest("the KV and the tokens that it was computed from differ in length")
    shown = []
    for lesson in lessons:
        asked: list[Message] = [{"role": "user", "content": lesson.question}]
        if lesson.before is None:
            shown.append(weights.answered(asked, lesson.answer))
            continue
        whole = weights.answered(place(asked, context.texts, []), lesson.answer)
        if whole.prompt[: kept.tokens] != context.tokens:
            raise BadRequest(
                "the KV was computed from other tokens than this model's chat begins with"
            )
        shown.append(dataclasses.replace(whole, prompt=whole.prompt[kept.tokens :]))
    return shown, [None if lesson.before is None else kept for lesson in lessons]


def _decode(folder: JobFolder, order: Order, clock: Clock, report: Report) -> None:
    from peft import PeftModel

    weights = Weights(order.model, order.revision, order.device)
    adapted: Any = PeftModel.from_pretrained(weights.model, str(folder.given))
    adapted.eval()
    clock.phase("questioning")
    report.statements = decode(weights, adapted, order.decoding, clock.done)
    report.outcome = "passed" if report.statements else "refused"
    if not report.statements:
        report.reasons = ["nothing was said often enough, or the base model says it, too"]


def _lessons(folder: JobFolder, order: Order, weights: Weights, clock: Clock) -> Lessons:
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
        len(weights.prompt(told(before, "?", weights.escape))) for before in (order.passages, None)
    )
    report.prompt_tokens_saved = with_text - without
    report.reasons = verdict(order.gate, report.recall, report.perplexity_ratio)
    report.outcome = "refused" if report.reasons else "passed"


def main(arguments: list[str]) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    os.nice(10)  # whoever chats on this machine goes first
    report = run(JobFolder(Path(arguments[0])))
    log.info("%s after %.0f s: %s", report.outcome, report.seconds, "; ".join(report.reasons))
    return {"passed": 0, "refused": 0, "stopped": 3}.get(report.outcome, 1)


def _quiet() -> None:
    from transformers.utils import logging as theirs

    progress: Any = theirs
    progress.disable_progress_bar()


if __name__ == "__main__":
    _quiet()
    sys.exit(main(sys.argv[1:]))
