"""Ask every question in every way, and summarise scores, tokens and latencies."""

from __future__ import annotations

import dataclasses
import math
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.generation import prompts
from benchmarks.generation.asking import Asker, Reply
from benchmarks.generation.dataset import Dataset, History, Question
from benchmarks.generation.judge import Judge
from benchmarks.generation.scores import score

MEMORY, EVIDENCE, FULL, NOTHING = "memory", "evidence", "full context", "nothing"
WAYS = (MEMORY, EVIDENCE, FULL, NOTHING)
NO_ROOM, NO_EVIDENCE = "does not fit", "no evidence named"


@dataclasses.dataclass(frozen=True, slots=True)
class Answered:
    way: str
    history: History
    question: Question
    reply: Reply
    score: float | None
    judged: bool | None


@dataclasses.dataclass
class Outcome:
    answers: list[Answered] = dataclasses.field(default_factory=list)
    left_out: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
    """Questions that could not be asked in a way, by reason."""

    def leave_out(self, way: str, reason: str) -> None:
        reasons = self.left_out.setdefault(way, {})
        reasons[reason] = reasons.get(reason, 0) + 1


def measure(
    asker: Asker,
    dataset: Dataset,
    judge: Judge | None,
    note: Callable[[Answered], None] = lambda answered: None,
) -> Outcome:
    """Ask every question in every way.

    Args:
        note: called with each answer when it is scored.
    """
    outcome = Outcome()
    for history in dataset.histories:
        asker.learn(history)
        # Warm-up: loading the model and reading the index are not part of a first token.
        asker.ask(history.person, prompts.GREETING, 1, memory=True)
        for question in history.questions:
            for way in WAYS:
                answered = _ask(asker, history, question, way, judge, outcome)
                if answered is not None:
                    outcome.answers.append(answered)
                    note(answered)
        print(f"{history.person}: {len(history.questions)} questions", file=sys.stderr, flush=True)
    return outcome


def _ask(
    asker: Asker,
    history: History,
    question: Question,
    way: str,
    judge: Judge | None,
    outcome: Outcome,
) -> Answered | None:
    given = {EVIDENCE: history.evidence(question), FULL: list(history.turns)}.get(way, [])
    if way == EVIDENCE and not given:
        outcome.leave_out(way, NO_EVIDENCE)
        return None
    asked, room = prompts.messages(question, given), prompts.max_tokens(question)
    if given and asker.count(asked) + room > asker.context:
        outcome.leave_out(way, NO_ROOM)
        return None
    reply = asker.ask(history.person, asked, room, memory=way == MEMORY)
    judged = None
    if judge is not None and question.scored_by != "letter":
        judged = judge.is_right(question, reply.text)
    return Answered(way, history, question, reply, score(question, reply.text), judged)


def rows(outcome: Outcome, shares: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    """A row per way, over all kinds and for each kind.

    Args:
        shares: of the kinds among all questions that could be asked: weights of the kinds in "all",
            independent of the sample.
    """
    blind = {_asked(one): one for one in outcome.answers if one.way == NOTHING}
    for way in WAYS:
        of_way = [one for one in outcome.answers if one.way == way]
        left_out = outcome.left_out.get(way, {})
        whole = _summary(of_way, shares) | _gain(of_way, blind, shares)
        yield {"way": way, "kind": "all", "left_out": left_out, **whole}
        for kind in shares:
            part = [one for one in of_way if one.question.kind == kind]
            if part:
                yield {"way": way, "kind": kind, **_summary(part, {kind: 1.0})}


def _summary(answers: Sequence[Answered], shares: Mapping[str, float]) -> dict[str, Any]:
    made: dict[str, Any] = {"questions": len(answers)}
    if not answers:
        return made
    for name in ("score", "judged"):
        by_kind: dict[str, list[float]] = {}
        for one in answers:
            if (value := getattr(one, name)) is not None:
                by_kind.setdefault(one.question.kind, []).append(float(value))
        if by_kind:
            made[name], made[f"{name}_standard_error"] = weighted_mean(by_kind, shares)
    replies = [one.reply for one in answers]
    return made | {
        "prompt_tokens_mean": round(statistics.fmean(r.prompt_tokens for r in replies), 1),
        "memory_tokens_mean": round(statistics.fmean(r.memory_tokens for r in replies), 1),
        "first_token_ms_median": round(statistics.median(r.first_token_ms for r in replies), 1),
        "whole_ms_median": round(statistics.median(r.whole_ms for r in replies), 1),
    }


def _gain(
    answers: Sequence[Answered],
    blind: Mapping[tuple[str, str], Answered],
    shares: Mapping[str, float],
) -> dict[str, Any]:
    """Difference of each score to that of the same questions asked with nothing."""
    made: dict[str, Any] = {}
    for name in ("score", "judged"):
        by_kind: dict[str, list[float]] = {}
        for one in answers:
            value, without = getattr(one, name), getattr(blind[_asked(one)], name)
            if one.way != NOTHING and value is not None and without is not None:
                by_kind.setdefault(one.question.kind, []).append(float(value) - float(without))
        if by_kind:
            mean, error = weighted_mean(by_kind, shares)
            made |= {f"{name}_gain": mean, f"{name}_gain_standard_error": error}
    return made


def _asked(one: Answered) -> tuple[str, str]:
    return one.history.person, one.question.id


def weighted_mean(
    by_kind: Mapping[str, Sequence[float]], shares: Mapping[str, float]
) -> tuple[float, float]:
    """(mean over kinds weighted by their shares, standard error)

    The variance of a kind with one answer is taken as 0.25, that of an even mix of 0 and 1.
    """
    total = sum(shares[kind] for kind in by_kind)
    mean = variance = 0.0
    for kind, values in by_kind.items():
        weight = shares[kind] / total
        spread = statistics.variance(values) if len(values) > 1 else 0.25
        mean += weight * statistics.fmean(values)
        variance += weight**2 * spread / len(values)
    return round(mean, 4), round(math.sqrt(variance), 4)
