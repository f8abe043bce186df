"""The exam of a reading model: who passes reads, who fails does not, and no exam is sat twice."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from memos_vllm.api.app import create_app
from memos_vllm.config.reader import ReaderConfig
from memos_vllm.errors import Unavailable
from memos_vllm.governance.principal import Role
from memos_vllm.learning import examine
from memos_vllm.learning.examine import Examiner, last_status
from memos_vllm.learning.extract import Extractor
from memos_vllm.plaintext.reader import exam
from memos_vllm.plaintext.reader.judge import ModelJudge
from memos_vllm.writer.base import Ask
from tests.engine.harness import wait_for

SHEET = exam.sheet()
INVENTED = {
    "text": "I am a pilot from Rome",
    "subject": "me",
    "relation": "job",
    "value": "pilot",
    "holds": "yes",
    "when": "",
}


def copied(question: dict[str, Any]) -> list[dict[str, str]]:
    """What a good model writes: the clause with each expected fact, word for word."""
    items = []
    for expected in question["expect"]:
        needle = expected["has"][0].split("|")
        value = next((n for n in needle if n in question["text"].casefold()), needle[0])
        items.append(
            {
                "text": question["text"].strip(".。!"),
                "subject": (expected.get("of") or "me").split("|")[0],
                "relation": "dislikes" if expected.get("negative") else "other",
                "value": value,
                "holds": "no" if expected.get("negative") else "yes",
                "when": "",
            }
        )
    return items


class FakeModel:
    """Answers the exam by what the test says of each question."""

    def __init__(self, answer: Callable[[dict[str, Any]], list[dict[str, str]]]) -> None:
        self.asked: list[Ask] = []
        self._answer = answer

    def write(self, asks: Sequence[Ask], done: Callable[[int], None]) -> list[str]:
        self.asked += asks
        return [self._text(ask) for ask in asks]

    def _text(self, ask: Ask) -> str:
        shown = " ".join(message["content"] for message in ask.messages[-3:])
        for pair in SHEET["pairs"]:
            if pair["old"] in shown and pair["new"] in shown and "newer:" in shown:
                return json.dumps({"about": "", "verdict": pair["change"]})
        question = max(
            (each for each in SHEET["questions"] if each["text"] in shown),
            key=lambda each: len(each["text"]),
        )
        return json.dumps({"kind": "statement", "items": self._answer(question)})


class FakeSilentModel:
    def write(self, asks: Sequence[Ask], done: Callable[[int], None]) -> list[str]:
        raise Unavailable("it is away")


def examiner(folder: Path, model: Any, name: str = "m", **settings: Any) -> Examiner:
    return Examiner(ReaderConfig(**settings), folder, model, str, name)


def until_judged(one: Examiner) -> examine.ReaderStatus:
    one.start()
    wait_for(lambda: one.status.marks or "does not answer" in one.status.reason, "the exam", 60)
    return one.status


def test_a_model_that_copies_statements_passes_and_reads(tmp_path: Path) -> None:
    status = until_judged(examiner(tmp_path, FakeModel(copied)))
    assert (status.reads, status.forms, status.judges) == ("model", ("alone",), True), status
    marks = status.marks["alone"]
    assert marks["asked"] == marks["of"] == len(SHEET["questions"])
    assert marks["junk"] == 0


def test_a_model_that_writes_nothing_fails_before_the_last_question(tmp_path: Path) -> None:
    model = FakeModel(lambda question: [])
    status = until_judged(examiner(tmp_path, model))
    assert (status.reads, status.forms, status.judges) == ("rules", (), False)
    assert "facts" in status.reason
    assert len(model.asked) < len(SHEET["questions"])


def test_inventions_are_dropped_by_the_check_and_false_attributions_are_junk() -> None:
    def inventive(question: dict[str, Any]) -> list[dict[str, str]]:
        return [*copied(question), INVENTED]

    marks, problem = exam.sit(FakeModel(inventive), str, "alone")
    assert (marks.junk, problem) == (0, None)
    question = next(q for q in SHEET["questions"] if "Naples" in q["text"])
    marks = exam.Marks(of=1)
    false = INVENTED | {"text": "I was born in Naples", "relation": "origin", "value": "Naples"}
    exam.mark(marks, question, json.dumps({"kind": "statement", "items": [false]}))
    assert (marks.facts_kept, marks.facts) == (0, 1)


def test_junk_above_the_bar_fails() -> None:
    marks = exam.Marks(facts=10, facts_kept=10, items=10, junk=2, asked=10, of=10)
    assert "junk" in (marks.failing(exam.Bars(0.7, 0.05, 0.7, 0.85), 10, 0) or "")
    marks.junk = 0
    assert marks.failing(exam.Bars(0.7, 0.05, 0.7, 0.85), 10, 0) is None


def test_a_restart_does_not_sit_the_exam_again_and_another_model_does(tmp_path: Path) -> None:
    first = until_judged(examiner(tmp_path, FakeModel(copied)))
    again = FakeModel(lambda question: pytest.fail("the exam is sat again"))
    second = examiner(tmp_path, again)
    second.start()
    assert second.status == first
    other = FakeModel(lambda question: [])
    assert until_judged(examiner(tmp_path, other, "another")).reads == "rules"
    assert other.asked


@pytest.mark.parametrize("damage", ["", "{", '{"forms": {"alone": {"facts": 1, "x": 2}}}', "[]"])
def test_a_damaged_record_is_replaced(tmp_path: Path, damage: str) -> None:
    until_judged(examiner(tmp_path, FakeModel(copied)))
    (record,) = tmp_path.glob("*.json")
    record.write_text(damage)
    model = FakeModel(copied)
    assert until_judged(examiner(tmp_path, model)).reads == "model"
    assert model.asked


def test_lower_bars_count_for_a_record_that_exists(tmp_path: Path) -> None:
    nothing = FakeModel(lambda question: [])
    assert until_judged(examiner(tmp_path, nothing)).reads == "rules"
    lowest = {"exam_facts": 0.0, "exam_negations": 0.0, "exam_junk": 1.0}
    one = examiner(tmp_path, nothing, **lowest)
    one.start()
    assert one.status.reads == "model"


def test_a_model_that_does_not_answer_leaves_reading_to_the_rules(tmp_path: Path) -> None:
    one = examiner(tmp_path, FakeSilentModel())
    status = until_judged(one)
    one.stop()
    assert status.reads == "rules"
    assert not list(tmp_path.iterdir())


def test_fast_and_fine_sit_no_exam(tmp_path: Path) -> None:
    forbidden = FakeModel(lambda question: pytest.fail("an exam is sat"))
    for mode, reads in (("fast", "rules"), ("fine", "model")):
        one = examiner(tmp_path, forbidden, mode=mode)
        one.start()
        assert one.status.reads == reads


def test_the_exam_runs_beside_the_server(tmp_path: Path) -> None:
    let_go = threading.Event()

    class FakeSlowModel(FakeModel):
        def write(self, asks: Sequence[Ask], done: Callable[[int], None]) -> list[str]:
            let_go.wait(60)
            return super().write(asks, done)

    one = examiner(tmp_path, FakeSlowModel(copied))
    one.start()
    assert (one.status.reads, one.status.reason) == ("rules", "the exam has not ended")
    let_go.set()
    wait_for(lambda: one.status.reads == "model", "the exam", 60)


def test_a_turn_is_not_read_by_a_model_that_has_not_passed(system: Any) -> None:
    status = dataclasses.replace(examine.ReaderStatus("auto", "rules", "the exam has not ended"))
    model = FakeModel(lambda question: pytest.fail("a turn is read"))
    extractor = Extractor(system, model, str, reads=lambda: status)
    assert not extractor.reads
    assert extractor.read("no-cube:r1") is None


def test_the_judge_answers_with_verdicts_and_is_careful_without(tmp_path: Path) -> None:
    model = ModelJudge(FakeModel(copied), str)
    pair = next(each for each in SHEET["pairs"] if each["change"] == "updates")
    assert model.judge(pair["old"], pair["new"]) == "updates"

    class FakeUnclear:
        def write(self, asks: Sequence[Ask], done: Callable[[int], None]) -> list[str]:
            return ['{"verdict": "perhaps"}' for _ in asks]

    assert ModelJudge(FakeUnclear(), str).judge("a", "b") == "unrelated"
    assert exam.sit_judge(FakeModel(copied), str) == (len(SHEET["pairs"]), len(SHEET["pairs"]))
    assert exam.sit_judge(FakeUnclear(), str)[0] == 0


def test_a_judge_that_changes_everything_fails() -> None:
    class FakeZealot:
        def write(self, asks: Sequence[Ask], done: Callable[[int], None]) -> list[str]:
            return ['{"about": "", "verdict": "updates"}' for _ in asks]

    right, asked = exam.sit_judge(FakeZealot(), str)
    assert right < 0.5 * asked


def test_the_route_shows_marks_and_the_reason(system: Any) -> None:
    app = create_app(system)

    def client(role: Role) -> TestClient:
        _, key = system.keys.create("acme", role)
        return TestClient(app, headers={"Authorization": f"Bearer {key}"})

    shown = client(Role.READER).get("/v1/memory/reader")
    assert shown.status_code == 200, shown.text
    assert shown.json()["reads"] == "rules"
    until_judged(
        Examiner(system.config.reader, system.config.exams_path, FakeModel(copied), str, "m")
    )
    shown = client(Role.READER).get("/v1/memory/reader").json()
    assert (shown["reads"], shown["model"]) == ("model", None)
    assert shown["marks"]["alone"]["facts_kept"] > 0.9 * shown["marks"]["alone"]["facts"]
    assert client(Role.ADMIN).get("/v1/memory/reader").json()["model"] == "m"
    assert TestClient(app).get("/v1/memory/reader").status_code == 401
    last = last_status(system.config.reader, system.config.exams_path)
    assert last is not None
    assert last.reads == "model"
