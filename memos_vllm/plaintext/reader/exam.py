"""The exam of a model that is to read turns: sentences with the items expected of them, and marks.

The sheet (`exam.json`) has facts, corrections, negations, jokes, quotes, third persons, hypotheticals and
requests, in English, German, French, Spanish, Chinese and Japanese, and pairs of statements for the judge of change
(`judge`).  Answers go through the same checks as when turns are read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from memos_vllm.cube.ids import canonical_json, to_datetime
from memos_vllm.cube.model import Item, ItemType
from memos_vllm.plaintext.reader import judge
from memos_vllm.plaintext.reader.by_model import checked
from memos_vllm.plaintext.reader.support import folded, is_negated
from memos_vllm.plaintext.reader.written import SCHEMA, Answer, alone, continued
from memos_vllm.prompt.quoting import Escape
from memos_vllm.writer.base import Ask, Writer

Form = Literal["continued", "alone"]
SHEET = Path(__file__).with_name("exam.json")
PERSON, _REPLY = "Sam", "Alright."
_AT_ONCE = 8
_TOKENS = 256
"""Of one answer: a model that writes more about one sentence is lost in it."""
_SAID_AT_US = 1_750_000_000_000_000


@dataclasses.dataclass(frozen=True)
class Bars:
    """What a model must reach to read: shares between 0 and 1."""

    facts: float
    junk: float
    negations: float
    changes: float


@dataclasses.dataclass
class Marks:
    """Marks of one exam."""

    facts: int = 0
    facts_kept: int = 0
    items: int = 0
    junk: int = 0
    """Items that state what the person did not say of their life."""
    negations: int = 0
    negations_right: int = 0
    unusable: int = 0
    """Answers in another form than the schema's."""
    asked: int = 0
    of: int = 0
    """Questions on the sheet; fewer are asked when the exam can no longer be passed."""

    def failing(self, bars: Bars, facts: int, negations: int) -> str | None:
        """Reason why the bars cannot be reached any more; None: they still can.

        Args:
            facts: expected on the whole sheet.
            negations: likewise.
        """
        lost, wrong = self.facts - self.facts_kept, self.negations - self.negations_right
        most_items = self.items + 2 * (self.of - self.asked)
        if facts - lost < bars.facts * facts:
            return f"it keeps {self.facts_kept} of {self.facts} facts; {bars.facts:.0%} are needed"
        if self.junk > bars.junk * most_items:
            return f"{self.junk} of its {self.items} items are junk; at most {bars.junk:.0%} may be"
        if negations - wrong < bars.negations * negations:
            right = f"{self.negations_right} of {self.negations}"
            return f"{right} negations are right; {bars.negations:.0%} are needed"
        return None


def version() -> str:
    """Digest of the sheet, the prompts and the schemas: marks of another version do not count."""
    prompts = [alone(PERSON, "", str), continued([""], str), SCHEMA, judge.SCHEMA]
    prompts.append(judge.ask("", "", str).messages)
    return hashlib.sha256(SHEET.read_bytes() + canonical_json(prompts)).hexdigest()[:16]


def sheet(path: Path = SHEET) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return tree


def totals() -> tuple[int, int]:
    """Facts and negations on the whole sheet."""
    return _totals(sheet()["questions"])


def _totals(questions: Sequence[dict[str, Any]]) -> tuple[int, int]:
    facts = sum(len(each["expect"]) for each in questions)
    return facts, sum(each["kind"] == "negation" for each in questions)


def sit(
    writer: Writer,
    escape: Escape,
    form: Form,
    bars: Bars | None = None,
    questions: Sequence[dict[str, Any]] | None = None,
    at_once: int = _AT_ONCE,
) -> tuple[Marks, str | None]:
    """Have a model read the sheet's sentences.

    Args:
        bars: the exam ends as soon as they cannot be reached any more; None: all is asked.
        questions: of another sheet; default: the exam's.
        at_once: questions in one call of the writer.

    Returns:
        The marks, and the reason why the model fails; None: it passes.

    Raises:
        Unavailable: the model does not answer.
    """
    asked = list(sheet()["questions"] if questions is None else questions)
    random.Random(0).shuffle(asked)
    facts, negations = _totals(asked)
    marks, problem = Marks(of=len(asked)), None
    for start in range(0, len(asked), at_once):
        batch = asked[start : start + at_once]
        answers = writer.write([ask(each["text"], form, escape) for each in batch], lambda n: None)
        for question, answer in zip(batch, answers, strict=True):
            mark(marks, question, answer)
        if bars is not None and (problem := marks.failing(bars, facts, negations)):
            break
    return marks, problem


def ask(text: str, form: Form, escape: Escape) -> Ask:
    """The request for one sentence; its prompt is of the exam alone, so that asks share its KV."""
    if form == "alone":
        messages = alone(PERSON, f"[{PERSON}] {text}", escape)
    else:
        messages = [
            {"role": "user", "content": text},
            {"role": "assistant", "content": _REPLY},
            {"role": "user", "content": continued([text], escape)},
        ]
    return Ask(messages, _TOKENS, schema=SCHEMA, shared=True)


def mark(marks: Marks, question: dict[str, Any], answer: str) -> list[Item]:
    """Add one answer to the marks; returns its items that passed the checks."""
    turn = Item(
        type=ItemType.EPISODE,
        text=question["text"],
        speaker=PERSON,
        time=to_datetime(_SAID_AT_US),
        source="exam",
    )
    items: list[Item] = []
    try:
        items = checked([([turn], Answer.model_validate_json(answer))], PERSON, ()).items
    except ValidationError:
        marks.unusable += 1
    count(marks, question, items)
    return items


def count(marks: Marks, question: dict[str, Any], items: Sequence[Item]) -> None:
    """Add the items that a reader took from a question's sentence to the marks."""
    expected = question["expect"]
    found = [any(_states(item, each) for item in items) for each in expected]
    junk = sum(_is_junk(item, question) for item in items)
    marks.asked += 1
    marks.facts += len(expected)
    marks.facts_kept += sum(found)
    marks.items += len(items)
    marks.junk += junk
    if question["kind"] == "negation":
        marks.negations += 1
        marks.negations_right += all(found) and not junk


def _is_junk(item: Item, question: dict[str, Any]) -> bool:
    if any(_states(item, each) for each in question["expect"]):
        return False
    allowed = ({"has": [own], "of": of} for own, _, of in _parts(question.get("may", ())))
    return not any(_states(item, each, any_polarity=True) for each in allowed)


def _parts(may: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    return (each.partition("@") for each in may)


def _states(item: Item, expected: dict[str, Any], any_polarity: bool = False) -> bool:
    """Whether an item states the expected fact of the expected subject."""
    claim = item.claim
    assert claim is not None
    text = folded(f"{item.text} {claim.attribute or ''} {claim.value or ''}")
    if not all(_has(text, each) for each in expected["has"]):
        return False
    subject = folded(f"{claim.subject} {claim.attribute or ''} {item.text}")
    if (of := expected.get("of")) and not _has(subject, of):
        return False
    if of and claim.attribute in ("home", "job", "employer", "origin", "diet"):
        return False  # a property of the person, but the sentence is about another one
    if any_polarity:
        return True
    dislikes = (claim.value or "").startswith("not ")
    return bool(expected.get("negative")) <= (is_negated(item.text) or dislikes)


def _has(text: str, alternatives: str) -> bool:
    return any(folded(each) in text for each in alternatives.split("|"))


def sit_judge(
    writer: Writer, escape: Escape, pairs: Sequence[dict[str, str]] | None = None
) -> tuple[int, int]:
    """Have a model judge the sheet's pairs; returns (right, asked).

    `updates` and `contradicts` have the same effect, so each counts as the other; an unrelated pair
    that is judged to change counts twice: it would lose a fact.

    Raises:
        Unavailable: the model does not answer.
    """
    asked = list(sheet()["pairs"] if pairs is None else pairs)
    model = judge.ModelJudge(writer, escape, shared=True)
    right = wrong = 0
    for start in range(0, len(asked), _AT_ONCE):
        batch = asked[start : start + _AT_ONCE]
        verdicts = model.judge_all([(each["old"], each["new"]) for each in batch])
        for pair, verdict in zip(batch, verdicts, strict=True):
            same = judge.is_change(verdict) == judge.is_change(pair["change"])
            if same and (judge.is_change(verdict) or verdict == pair["change"] or verdict is None):
                right += verdict is not None
            elif judge.is_change(verdict) and pair["change"] == "unrelated":
                wrong += 1
    return max(0, right - wrong), len(asked)
