"""Scores against values computed by hand."""

from __future__ import annotations

import pytest

from benchmarks.generation.measure import weighted_mean
from benchmarks.generation.scores import chosen_letter, token_f1, token_f1_of_parts

OPTIONS = ("Try the bakery.", "Try the sushi bar.", "Stay at home.", "Ask a friend.")


@pytest.mark.parametrize(
    ("answer", "reference", "value"),
    [
        ("7 May 2023", "7 May 2023", 1.0),
        ("She moved to Paris", "moved to Paris, France", 0.75),  # 3 of 4 and 3 of 4
        ("The dog and a cat.", "dog, cat", 1.0),  # articles, `and` and punctuation do not count
        ("painting", "painted", 1.0),  # both are `paint`
        ("red red blue", "red", 0.5),  # 1 of 3 and 1 of 1
        ("Oslo", "Paris", 0.0),
        ("", "Paris", 0.0),
        ("the", "a", 0.0),
    ],
)
def test_token_f1(answer: str, reference: str, value: float) -> None:
    assert token_f1(answer, reference) == pytest.approx(value)


@pytest.mark.parametrize(
    ("answer", "reference", "value"),
    [
        ("camping, pottery", "pottery, camping", 1.0),
        ("pottery, camping", "camping, swimming", 0.5),  # 1 and 0
        ("reading books", "books, running", 1 / 3),  # 1 of 2 and 1 of 1, and 0
    ],
)
def test_the_f1_of_parts_takes_the_best_part_for_each(
    answer: str, reference: str, value: float
) -> None:
    assert token_f1_of_parts(answer, reference) == pytest.approx(value)


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("b", "b"),
        ("(B)", "b"),
        ("**(c)** because", "c"),
        ("D. Ask a friend.", "d"),
        ("b: Try the sushi bar", "b"),
        ("I think the answer is (a).", "a"),
        ("Not (a) and not (b). Final answer: (d)", "d"),
        ("It could be (a) or (c).", None),
        ("I would say (c), all in all.", "c"),
        ("You should stay at home.", "c"),
        ("A good idea is a walk.", None),
        ("The answer is a good walk.", None),
        ("e", None),
        ("", None),
    ],
)
def test_an_option_letter_is_read_in_any_form_and_never_guessed(
    answer: str, letter: str | None
) -> None:
    assert chosen_letter(answer, OPTIONS) == letter


def test_kinds_weigh_by_their_share_of_the_data_and_not_of_the_sample() -> None:
    mean, error = weighted_mean(
        {"often": [1.0, 0.0], "rare": [1.0, 1.0]}, {"often": 0.75, "rare": 0.25}
    )
    assert mean == pytest.approx(0.625)
    assert error == pytest.approx(0.375, abs=1e-4)  # 0.75² · 0.5 / 2, and the rare do not spread
