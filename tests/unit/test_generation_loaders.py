"""Loaders of public data sets: turns, questions, left-out ones, errors."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from benchmarks.generation.dataset import Dataset
from benchmarks.generation.loaders import LOADERS
from benchmarks.generation.loaders.prefeval import with_inter_turns
from memos_vllm.errors import BadRequest

Change = Callable[[Any], None]


def locomo() -> list[Any]:
    def said(speaker: str, place: str, text: str) -> dict[str, str]:
        return {"speaker": speaker, "dia_id": place, "text": text}

    def asked(question: str, answer: Any, category: int, *evidence: str) -> dict[str, Any]:
        return {
            "question": question,
            "answer": answer,
            "category": category,
            "evidence": list(evidence),
        }

    return [
        {
            "sample_id": "conv-1",
            "conversation": {
                "speaker_a": "Ada",
                "speaker_b": "Ben",
                "session_1_date_time": "1:56 pm on 8 May, 2023",
                "session_1": [
                    said("Ada", "D1:1", "I bought a canoe."),
                    said("Ben", "D1:2", "Mine is red, and I have 3 paddles."),
                ],
            },
            "qa": [
                asked("What do they do?", "canoe, paddle", 1, "D1:1; D1:2"),
                asked("How many paddles?", 3, 2, "D1:2"),
                asked("Is Ben sporty?", "Yes; he paddles", 3, "D9:9"),
                asked("What did Ada buy?", "a canoe", 4, "D1:1"),
                {"question": "Who sings?", "adversarial_answer": "Ada", "category": 5},
            ],
        }
    ]


def longmemeval() -> list[Any]:
    entry: dict[str, Any] = {
        "question_id": "q1",
        "question_type": "multi-session",
        "question": "Where do I live?",
        "answer": "Oslo",
        "question_date": "2023/06/01 (Thu) 09:00",
        "haystack_session_ids": ["late", "early"],
        "haystack_dates": ["2023/05/20 (Sat) 02:21", "2023/05/01 (Mon) 10:00"],
        "haystack_sessions": [
            [
                {"role": "user", "content": "I moved to Oslo.", "has_answer": True},
                {"role": "assistant", "content": " "},
            ],
            [{"role": "user", "content": "Hello."}],
        ],
        "answer_session_ids": ["late"],
    }
    return [
        entry,
        entry | {"question_id": "q2_abs", "answer": "You did not say.", "question": "My car?"},
        entry | {"question_id": "q3", "question_type": "single-session-preference"},
        entry | {"question_id": "q4", "answer": 3},
    ]


def prefeval() -> list[Any]:
    base = {"preference": "I hate fish.", "question": "Where to eat?", "explanation": "…"}
    choice = {
        "query": "A snack?",
        "assistant_options": "1. sushi 2. bread",
        "user_selection": "2",
        "assistant_acknowledgment": "Good.",
    }
    persona = {"turn1": {"user": "I sail.", "assistant": "Nice."}}
    return [
        base,
        base | {"classification_task_options": ["a bakery", "a sushi bar", "a fish inn", "a pier"]},
        base | {"conversation": choice, "aligned_op": "bread"},
        base | {"conversation": persona, "persona": "a sailor"},
    ]


def personamem() -> list[Any]:
    row = {
        "persona_id": "0",
        "question_id": "q1",
        "question_type": "recall",
        "topic": "food",
        "user_question_or_message": "What should I cook?",
        "correct_answer": "(b)",
        "all_options": "['(a) Fish.', \"(b) It's soup.\"]",
        "shared_context_id": "c1",
        "end_index_in_shared_context": "3",
    }
    later = row | {
        "question_id": "q3",
        "end_index_in_shared_context": "5",
        "all_options": json.dumps(["(a) Fish.", "(b) Soup."]),
    }
    return [row, row | {"question_id": "q2", "correct_answer": "(a)"}, later]


CONTEXT = [
    {"role": "system", "content": "Current user persona: Kim"},
    {"role": "user", "content": "I like soup."},
    {"role": "assistant", "content": "Noted."},
    {"role": "system", "content": "Current user persona: Kim"},
    {"role": "user", "content": "I like stew now."},
]
MADE: dict[str, Callable[[], list[Any]]] = {
    "locomo": locomo,
    "longmemeval": longmemeval,
    "prefeval": prefeval,
    "personamem": personamem,
}


def loaded(folder: Path, name: str, change: Change = lambda tree: None) -> Dataset:
    tree = MADE[name]()
    change(tree)
    path = folder / "data.json"
    if name == "personamem":
        path = folder / "questions_32k.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(tree[0]))
            writer.writeheader()
            writer.writerows(tree)
        (folder / "shared_contexts_32k.jsonl").write_text(json.dumps({"c1": CONTEXT}) + "\n")
    else:
        path.write_text(json.dumps(tree), encoding="utf-8")
    return LOADERS[name](path)


def test_locomo_keeps_categories_1_to_4_and_scores_each_as_its_own_evaluation_does(
    tmp_path: Path,
) -> None:
    dataset = loaded(tmp_path, "locomo")
    (history,) = dataset.histories
    assert [(q.kind, q.scored_by, q.answer) for q in history.questions] == [
        ("multi-hop", "f1_of_parts", "canoe, paddle"),
        ("temporal", "f1", "3"),
        ("open-domain", "f1", "Yes"),
        ("single-hop", "f1", "a canoe"),
    ]
    assert dataset.left_out == {"category 5": 1}
    assert [turn.id for turn in history.evidence(history.questions[0])] == ["D1:1", "D1:2"]
    assert history.evidence(history.questions[2]) == []
    assert history.turns[1].time == datetime(2023, 5, 8, 13, 56, 1, tzinfo=UTC)


def test_longmemeval_orders_sessions_by_date_and_leaves_rubrics_to_a_judge(
    tmp_path: Path,
) -> None:
    dataset = loaded(tmp_path, "longmemeval")
    assert [(q.kind, q.scored_by, q.rubric, q.answer) for q in dataset.questions] == [
        ("multi-session", "f1", "answer", "Oslo"),
        ("abstention", "judge", "unanswerable", "You did not say."),
        ("single-session-preference", "judge", "preference", "Oslo"),
        ("multi-session", "f1", "answer", "3"),
    ]
    history = dataset.histories[0]
    assert [turn.text for turn in history.turns] == ["Hello.", "I moved to Oslo."]
    assert history.evidence(history.questions[0]) == [history.turns[1]]
    assert history.turns[1].time == datetime(2023, 5, 20, 2, 21, tzinfo=UTC)
    assert history.questions[0].asked == "2023/06/01 (Thu) 09:00"
    alone = dataset.without_judge()
    assert [q.id for q in alone.questions] == ["q1", "q4"]
    assert alone.left_out == {"only a judge can tell": 2}


def test_prefeval_distinguishes_its_four_forms(tmp_path: Path) -> None:
    explicit, options, choice, persona = loaded(tmp_path, "prefeval").histories
    assert [turn.text for turn in explicit.turns] == ["I hate fish."]
    assert explicit.questions[0].scored_by == "judge"
    assert explicit.questions[0].answer == "I hate fish."
    asked = options.questions[0]
    assert asked.scored_by == "letter"
    assert asked.options["abcd".index(asked.answer)] == "a bakery"
    assert [turn.speaker for turn in choice.turns] == ["user", "assistant", "user", "assistant"]
    assert choice.questions[0].kind == "choice-based"
    assert [turn.text for turn in persona.turns] == ["I sail.", "Nice."]


def test_prefeval_puts_unrelated_turns_between_preference_and_question(tmp_path: Path) -> None:
    path = tmp_path / "inter_turns.json"
    said = [{"role": role, "content": f"{role} {n}"} for n in (1, 2) for role in ("user", "bot")]
    path.write_text(json.dumps([{"conversation": said[:3]}, {"conversation": said[3:]}]))
    dataset = with_inter_turns(loaded(tmp_path, "prefeval"), path, 1)
    history = dataset.histories[0]
    assert [turn.text for turn in history.turns] == ["I hate fish.", "user 1", "bot 1"]
    assert history.evidence(history.questions[0]) == [history.turns[0]]
    assert len(with_inter_turns(dataset, path, 9).histories[0].turns) == 3 + 4
    path.write_text(json.dumps([{"turns": []}]))
    with pytest.raises(BadRequest, match=r"entry 1: .*`conversation`"):
        with_inter_turns(dataset, path, 1)


def test_prefeval_shuffles_the_position_of_the_right_option(tmp_path: Path) -> None:
    entry = prefeval()[1]
    many = loaded(tmp_path, "prefeval", lambda tree: tree.extend([entry] * 40))
    letters = {q.answer for q in many.questions if q.scored_by == "letter"}
    assert letters == set("abcd")


def test_personamem_shows_a_question_only_earlier_turns(tmp_path: Path) -> None:
    early, late = loaded(tmp_path, "personamem").histories
    assert [turn.text for turn in early.turns][1:] == ["I like soup.", "Noted."]
    assert [q.answer for q in early.questions] == ["b", "a"]
    assert early.questions[0].options == ("Fish.", "It's soup.")
    assert late.questions[0].options == ("Fish.", "Soup.")
    assert late.turns[-1].text == "I like stew now."
    assert {turn.session for turn in late.turns} == {"session_1", "session_2"}


def test_an_older_personamem_has_another_field_for_the_question(tmp_path: Path) -> None:
    def rename(tree: list[Any]) -> None:
        for row in tree:
            row["question"] = row.pop("user_question_or_message")

    assert loaded(tmp_path, "personamem", rename).questions[0].text == "What should I cook?"


def dropped(*path: Any) -> Change:
    def change(tree: Any) -> None:
        for step in path[:-1]:
            tree = tree[step]
        del tree[path[-1]]

    return change


def put(value: Any, *path: Any) -> Change:
    def change(tree: Any) -> None:
        for step in path[:-1]:
            tree = tree[step]
        tree[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("name", "change", "named"),
    [
        ("locomo", dropped(0, "conversation", "speaker_a"), "speaker_a"),
        ("locomo", dropped(0, "qa", 0, "answer"), "question 1: there is no field `answer`"),
        ("locomo", put("4", 0, "qa", 3, "category"), "`category` must be int, not str"),
        ("longmemeval", dropped(1, "question_date"), "question 2: .*`question_date`"),
        ("longmemeval", put(["x"], 0, "haystack_dates"), "of one length"),
        ("longmemeval", put(["x", "y"], 0, "haystack_dates"), "`haystack_dates`: no date"),
        ("longmemeval", put({}, 0, "haystack_sessions", 0, 0), "session late: .*`role`"),
        ("longmemeval", put("x", 0), "question 1: an object is needed, not str"),
        ("prefeval", dropped(0, "preference"), "entry 1: .*`preference`"),
        ("prefeval", put(["x"], 1, "classification_task_options"), "two strings or more"),
        ("prefeval", dropped(2, "conversation", "user_selection"), "`user_selection`"),
        ("prefeval", put("x", 3, "conversation", "turn1"), "`turn1`: an object is needed"),
        ("personamem", put("(z)", 0, "correct_answer"), "row 1: `correct_answer`"),
        ("personamem", put("[1", 1, "all_options"), "row 2: `all_options`"),
        ("personamem", put("['x', 'y']", 1, "all_options"), r"must begin with \(a\)"),
        ("personamem", put("c9", 0, "shared_context_id"), "'c9' is no history's"),
        ("personamem", put("all", 0, "end_index_in_shared_context"), "must be a number"),
    ],
)
def test_a_malformed_file_is_an_error_that_names_the_field(
    tmp_path: Path, name: str, change: Change, named: str
) -> None:
    with pytest.raises(BadRequest, match=named):
        loaded(tmp_path, name, change)


@pytest.mark.parametrize("name", sorted(LOADERS))
def test_a_missing_or_empty_file_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadRequest, match="cannot read"):
        LOADERS[name](tmp_path / "questions.json")
    if name != "personamem":
        (tmp_path / "empty.json").write_text("[]", encoding="utf-8")
        with pytest.raises(BadRequest, match="list of"):
            LOADERS[name](tmp_path / "empty.json")


def test_a_sample_is_balanced_over_kinds_and_deterministic(tmp_path: Path) -> None:
    def longer(tree: list[Any]) -> None:
        tree[0]["qa"] += [tree[0]["qa"][3]] * 20

    dataset = loaded(tmp_path, "locomo", longer)
    drawn = dataset.sample(8)
    kinds = [question.kind for question in drawn.questions]
    assert len(kinds) == 8
    assert set(kinds) == {"multi-hop", "temporal", "open-domain", "single-hop"}
    assert drawn == dataset.sample(8)
    assert dataset.shares()["single-hop"] == 21 / 24
