"""Reading a question: its text, names, and whether it is about the past."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memos_vllm.plaintext.reader.query import MemoryQuery, read_query, read_text

NOW = datetime(2023, 5, 17, 14, 30, tzinfo=UTC)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


@pytest.mark.parametrize(
    ("text", "is_past"),
    [
        ("Where did I use to live?", True),
        ("Where I used to work", True),
        ("What was my previous job?", True),
        ("What did we talk about in 2019?", True),
        ("Who was my boss back then?", True),
        ("What about the trip in May 2021?", True),
        ("What have I read since 2019?", False),
        ("What about yesterday and next week?", False),
        ("Where do I live?", False),
        ("What happens next week?", False),
    ],
)
def test_a_question_is_about_the_past_by_its_words_or_by_a_past_time(
    text: str, is_past: bool
) -> None:
    assert read_text(text, NOW).about_past is is_past


def test_names_in_a_question_are_its_entities() -> None:
    found = read_text("Did Bob go to Rome with Ann Lee on Monday?", NOW)
    assert set(found.entities) == {"Bob", "Ann Lee", "Rome"}
    assert read_text("What is my name?", NOW).entities == ()


def test_without_a_user_text_the_query_is_empty() -> None:
    assert read_query([{"role": "system", "content": "S"}], NOW) == MemoryQuery("")
    assert read_query([], NOW) == MemoryQuery("")


def test_a_short_question_is_read_with_the_one_before_it() -> None:
    found = read_query([user("Tell me about my boat."), user("And why?")], NOW)
    assert found.text == "Tell me about my boat.\nAnd why?"


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_any_text_is_read_without_an_error(text: str) -> None:
    assert read_text(text, NOW) == read_text(text, NOW)


def test_reading_a_question_takes_less_than_a_millisecond() -> None:
    text = "Do you remember what I told you about Ann, and where my brother wants to live?"
    begun = time.process_time()
    for _ in range(200):
        read_text(text, NOW)
    assert (time.process_time() - begun) / 200 < 0.001
