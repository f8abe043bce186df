"""Self-study: the questions, the support of answers, and the held-out exam."""

from __future__ import annotations

import json

import pytest

from memos_vllm.cube.model import Item
from memos_vllm.parametric.training.order import Gate, Order, Question, Recall, Recipe
from memos_vllm.parametric.training.study import (
    by_overlap,
    is_right,
    key_words,
    precision,
    question_messages,
    read_question,
    study,
    supported,
)
from memos_vllm.prompt.sentences import is_like, sentences
from memos_vllm.writer.base import Ask

TEXT = "The code of Orion is KESTREL-17. The door of Orion is violet."


class FakeWriter:
    """Answers from a fixed text, so that the resulting lessons are known exactly."""

    def __init__(self, forgets: str = "") -> None:
        self.asked: list[Ask] = []
        self._forgets = forgets

    def write(self, asks, done):
        self.asked += asks
        done(len(asks))
        return [self._text(ask) for ask in asks]

    def _text(self, ask: Ask) -> str:
        prompt = ask.messages[-1]["content"]
        if ask.schema is not None:
            what = "code" if "KESTREL" in prompt else "door"
            return json.dumps({"question": f"What is the {what} of Orion, number {ask.seed % 2}?"})
        if "<memory>" not in prompt:
            return "I think so."
        question = prompt.rpartition("\n")[2]
        if self._forgets and self._forgets in question:
            return "I do not know."
        return "It is KESTREL-17." if "code" in question else "It is violet."


def order(**given) -> Order:
    recipe = Recipe(questions=4, **given.pop("recipe", {}))
    return Order(model="none", passages=[Item(text=TEXT)], recipe=recipe, **given)


def ignore(*_):
    pass


def same(text):
    return text


def test_each_sentence_is_asked_about_and_answered_with_the_text_before_it():
    writer = FakeWriter()
    lessons = study(order(), writer, same, ignore)
    asked = {lesson.question for lesson in lessons.lessons if lesson.before}
    assert {"What is the code of Orion, number 1?", "What is the door of Orion, number 1?"} <= asked
    assert "Complete this sentence: The code of" in asked
    for lesson in lessons.lessons:
        if lesson.before is None:
            assert lesson.answer == "I think so."
        else:
            assert lesson.before[0].text in (TEXT, *sentences(TEXT))
    assert any(lesson.before is None for lesson in lessons.lessons)


def test_one_wording_of_each_answer_is_held_out_for_the_exam():
    lessons = study(order(), FakeWriter(), same, ignore)
    assert {q.answer for q in lessons.exam} == {"kestrel-17", "violet"}
    taught = {lesson.question for lesson in lessons.lessons}
    assert not taught & {q.question for q in lessons.exam}


def test_given_questions_are_the_exam_and_never_taught():
    exam = [Question(question="what is the CODE of Orion, number 1", answer="KESTREL-17")]
    lessons = study(order(exam=exam), FakeWriter(), same, ignore)
    assert lessons.exam == exam
    taught = {lesson.question for lesson in lessons.lessons}
    assert "What is the code of Orion, number 1?" not in taught
    assert "What is the code of Orion, number 0?" in taught


def test_unsupported_answers_are_dropped_and_continuations_take_the_sentence():
    lessons = study(order(), FakeWriter(forgets="code"), same, ignore)
    about_code = [
        lesson for lesson in lessons.lessons if lesson.before and "KESTREL" in lesson.answer
    ]
    assert lessons.dropped == 2
    assert about_code
    assert all(lesson.answer == sentences(TEXT)[0] for lesson in about_code)


def test_control_strings_in_the_text_are_broken_up():
    shown = question_messages(
        [Item(text="a <|im_end|> b")], "What?", lambda text: text.replace("<|", "< |")
    )
    assert "<|im_end|>" not in shown[0]["content"]
    assert shown[0]["content"].endswith("What?")


def test_study_stops_when_its_callback_raises():
    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study(order(), FakeWriter(), same, stop)


def test_progress_is_monotonic_and_ends_complete():
    calls = []
    study(order(), FakeWriter(forgets="code"), same, lambda done, all_: calls.append((done, all_)))
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert calls[-1][0] == calls[-1][1]
    assert len(calls) >= 5


@pytest.mark.parametrize(
    ("written", "question"),
    [
        ('{"question": "Who is it?"}', "Who is it?"),
        ("Who is it?\nAnd then some", "Who is it?"),
        ('"Who is it?"', "Who is it?"),
        ("It is nobody.", None),  # prose: a statement to judge
        ('{"question": 3}', None),
        ('{"answer": "Who?"}', None),
        ("?", None),
        ("", None),
    ],
)
def test_questions_are_parsed_from_json_and_plain_text(written, question):
    assert read_question(written) == question


@pytest.mark.parametrize(
    ("answer", "is_supported"),
    [
        ("The code word is KESTREL-17.", True),
        ("KESTREL-17", True),
        ("It is ZEBRA-42.", False),
        ("The code word of Orion Station.", False),
        ("KESTREL-17, which was chosen by the admiral of the northern fleet.", False),
    ],
)
def test_an_answer_is_supported_when_its_sentence_contains_it(answer, is_supported):
    sentence = "The code word of Orion Station is KESTREL-17."
    asked = "What is the code word of Orion Station?"
    assert supported(asked, answer, sentence) is is_supported


def test_key_words_and_comparison_of_answers():
    assert key_words("Who runs it?", "It is run by Ilka Brandt.") == {"run", "ilka", "brandt"}
    assert is_right("Her name is Ilka BRANDT, I think", "Ilka Brandt")
    assert not is_right("Ilka Brand", "Ilka Brandt")
    assert is_like("The door is violet.", "the door's violet")
    assert not is_like("The door is violet.", "The door is green.")
    assert not is_like("Is it?", "It was.")


def test_precision_is_the_share_of_statements_in_the_source():
    statements = ["The door of Orion is violet.", "The door of Orion is made of cheese."]
    assert precision(statements, [TEXT]) == 0.5
    assert precision([], [TEXT]) is None


def test_texts_are_ordered_by_words_shared_with_the_question():
    texts = ["The sea is red.", "The door is violet.", "The code of Orion is violet."]
    assert by_overlap("Which code is violet?", texts) == [2, 1, 0]


@pytest.mark.parametrize(
    ("recalled", "ratio", "reason"),
    [
        (Recall(questions=4, ceiling=1.0, floor=0.0, adapter=0.8), 1.0, None),
        (Recall(questions=4, ceiling=0.5, floor=0.0, adapter=0.4), 1.02, None),
        (Recall(questions=4, ceiling=1.0, floor=0.0, adapter=0.75), 1.0, "75% of the questions"),
        (
            Recall(questions=4, ceiling=1.0, floor=1.0, adapter=1.0),
            1.0,
            "no better than the base model",
        ),
        (Recall(questions=4, ceiling=0.0, floor=0.0, adapter=0.5), 1.0, "even with the text"),
        (Recall(questions=4, ceiling=1.0, floor=0.0, adapter=1.0), 1.03, "forgetting"),
        (Recall(questions=4, ceiling=1.0, floor=0.0, adapter=1.0), float("nan"), "forgetting"),
        (None, 1.0, "no question"),
    ],
)
def test_the_gate_refuses_with_a_reason(recalled, ratio, reason):
    pytest.importorskip("torch")
    from memos_vllm.parametric.training.exam import verdict

    reasons = verdict(Gate(), recalled, ratio)
    assert (reason in "; ".join(reasons)) if reason else reasons == []
