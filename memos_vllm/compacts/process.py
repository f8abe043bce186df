"""The process that makes a compact: `python -m memos_vllm.compacts.process FOLDER [PARENT]`.

Its folder, its progress and its end are those of a training job (`parametric.training.process`).
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence

import torch
from safetensors.torch import save_file

from memos_vllm.compacts.distil import KVStudent, Training
from memos_vllm.compacts.frame import Frame
from memos_vllm.compacts.make import (
    Whole,
    divergence_from,
    divergence_of,
    matched,
    places_for,
    references,
)
from memos_vllm.parametric.training.everyday import UNRELATED
from memos_vllm.parametric.training.exam import asks, share_right, verdict
from memos_vllm.parametric.training.order import (
    JobFolder,
    Order,
    Question,
    Recall,
    Report,
)
from memos_vllm.parametric.training.process import (
    Clock,
    disable_progress_bar,
    lessons_of,
    main,
    teacher_inputs,
)
from memos_vllm.parametric.training.study import Lesson
from memos_vllm.parametric.training.targets import teach
from memos_vllm.parametric.training.weights import Answered, ContextKV, Weights
from memos_vllm.prompt.layout import quote_cube
from memos_vllm.writer.base import Message

MODULE = "memos_vllm.compacts.process"
_HELD_OUT = 8
"""Of the lessons, each of this many is kept for the measurement."""


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Answers on which a compact is measured."""

    whole: Whole
    behind: Sequence[Answered]
    teacher: Sequence[tuple[Answered, ContextKV | None]] | None = None
    """The same answers in the teacher's chats; None: the teacher has the whole text in front of them."""

    def divergence(self, kv: torch.Tensor, done: Callable[[int], None]) -> float:
        """Mean KL from the teacher, nats for each token."""
        if self.teacher is None:
            return divergence_of(self.whole, kv, self.behind, done)
        return divergence_from(self.whole, kv, self.behind, self.teacher, done)


def make(folder: JobFolder, order: Order, clock: Clock, report: Report) -> None:
    """Make a compact, examine it and write it; a refused one is not written."""
    whole, kv, held_out, exam = made(folder, order, clock, report)
    clock.phase("examining")
    _examine(order, clock, report, whole, kv, held_out, exam)
    if report.outcome == "passed":
        write(folder, whole, kv, order.compacting.method)


def made(
    folder: JobFolder, order: Order, clock: Clock, report: Report
) -> tuple[Whole, torch.Tensor, HeldOut, list[Question]]:
    """(KV of the text, the compact, answers and questions to examine it with)"""
    wanted = order.compacting
    weights = Weights(order.model, order.revision, order.device)
    frame = Frame.of(weights, quote_cube(wanted.name, wanted.items, weights.escape))
    report.places = places_for(len(frame.tokens), wanted.ratio, wanted.places)
    clock.phase("matching")
    whole = Whole.of(frame)
    own = references(frame, wanted.items)
    kv = matched(whole, own, report.places, lambda count, total: clock.done(count, total))
    held_out, exam = HeldOut(whole, own), order.exam
    if wanted.method == "distil":
        kv, held_out, exam = _distilled(folder, order, clock, report, whole, kv)
    return whole, kv, held_out, exam


def _distilled(
    folder: JobFolder,
    order: Order,
    clock: Clock,
    report: Report,
    whole: Whole,
    start: torch.Tensor,
) -> tuple[torch.Tensor, HeldOut, list[Question]]:
    """(the trained compact, held-out answers, questions of the exam)"""
    weights, frame, wanted = whole.frame.weights, whole.frame, order.compacting
    lessons = lessons_of(folder, order, weights, clock)
    own = [lesson for lesson in lessons.lessons if lesson.before is not None]
    held_out, kept = own[::_HELD_OUT], [lesson for i, lesson in enumerate(own) if i % _HELD_OUT]
    taught = [*kept, *(lesson for lesson in lessons.lessons if lesson.before is None)]
    report.lessons = len(taught)
    clock.phase("teaching")
    shown, before = teacher_inputs(folder, order, weights, taught)
    targets = teach(
        weights,
        shown,
        order.recipe.top_k,
        folder.targets,
        lambda count: clock.done(count, len(shown)),
        before,
    )
    clock.phase("training")
    training = Training(wanted.steps, wanted.learning_rate, order.recipe.batch, order.recipe.seed)
    student = KVStudent(
        weights, whole.head, start, [_behind(frame, each) for each in taught], training
    )
    try:
        student.train(targets, folder.checkpoint, clock.done)
    finally:
        report.steps = student.step
        report.loss = round(student.loss, 4) if student.loss == student.loss else None
    apart = [_behind(frame, each) for each in held_out]
    teacher = list(zip(*teacher_inputs(folder, order, weights, held_out), strict=True))
    return student.kv.detach(), HeldOut(whole, apart, teacher), lessons.exam


def _behind(frame: Frame, lesson: Lesson) -> Answered:
    return frame.behind([{"role": "user", "content": lesson.question}], lesson.answer)


def _examine(
    order: Order,
    clock: Clock,
    report: Report,
    whole: Whole,
    kv: torch.Tensor,
    held_out: HeldOut,
    exam: Sequence[Question],
) -> None:
    frame = whole.frame
    unrelated = [frame.behind([_user(question)], answer) for question, answer in UNRELATED]
    total = len(held_out.behind) + len(unrelated) + 3 * len(exam)
    report.kl = round(held_out.divergence(kv, lambda count: clock.done(count, total)), 4)
    done = len(held_out.behind)
    report.kl_unrelated = round(
        divergence_of(whole, kv, unrelated, lambda count: clock.done(done + count, total)), 4
    )
    done += len(unrelated)
    if exam:
        report.recall, report.said = _recall(
            order, whole, kv, exam, lambda count: clock.done(done + count, total)
        )
    report.prompt_tokens_saved = len(frame.tokens) - report.places
    report.reasons = _verdict(order, report)
    report.outcome = "refused" if report.reasons else "passed"


def _recall(
    order: Order,
    whole: Whole,
    kv: torch.Tensor,
    exam: Sequence[Question],
    done: Callable[[int], None],
) -> tuple[Recall, list[str]]:
    weights, frame = whole.frame.weights, whole.frame
    plain = asks(weights, order, exam, with_text=False)
    floor = weights.write(plain, done)
    tails = [frame.behind([_user(question.question)], "").prompt for question in exam]
    most = order.recipe.answer_tokens
    ceiling = weights.continued(
        tails, whole.with_text(), most, lambda count: done(len(exam) + count)
    )
    answers = weights.continued(
        tails, whole.behind(kv), most, lambda count: done(2 * len(exam) + count)
    )
    recalled = Recall(
        questions=len(exam),
        ceiling=share_right(ceiling, exam),
        floor=share_right(floor, exam),
        adapter=share_right(answers, exam),
    )
    return recalled, answers


def _verdict(order: Order, report: Report) -> list[str]:
    gate, reasons = order.compacting, []
    if report.kl is not None and report.kl > gate.most_kl:
        reasons.append(
            f"answers: KL {report.kl:.3f} from those with the text in the prompt; the limit is {gate.most_kl}"
        )
    if report.kl_unrelated is not None and report.kl_unrelated > gate.most_kl:
        reasons.append(
            f"unrelated answers: KL {report.kl_unrelated:.3f} from those with the text in the prompt; the limit is "
            f"{gate.most_kl}"
        )
    if report.recall is not None or gate.method == "distil":
        reasons += verdict(order.gate, report.recall, None)
    return reasons


def write(folder: JobFolder, whole: Whole, kv: torch.Tensor, method: str) -> None:
    about = {
        "start": str(whole.start),
        "text": whole.frame.digest,
        "tokens": str(len(whole.frame.tokens)),
        "method": method,
    }
    partial = folder.compact.with_suffix(".making")
    save_file({"kv": kv.float().contiguous().cpu()}, partial, about)
    partial.replace(folder.compact)


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


if __name__ == "__main__":
    disable_progress_bar()
    sys.exit(main(sys.argv[1:], {"compact": make}))
