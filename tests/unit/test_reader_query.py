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


PRESENT = [
    "What did I say my favourite colour was?",
    "Where did I say I lived?",
    "Did I tell you what my job was?",
    "What have I told you about my cat?",
    "Have I mentioned where I work?",
    "What was my cat's name again?",
    "You said my favourite colour was what?",
    "I told you where I lived, remember?",
    "What did I tell you last week about my job?",
    "Have I told you before where I live?",
    "Which allergies did I mention earlier?",
    "What had I said my diet was?",
    "What should I pack before my flight?",
    "Can you come once a week?",
]
HELD_PRESENT = [
    "Did I mention that I was allergic to something?",
    "What did I say the name of my dentist was?",
    "Which languages did I tell you I spoke?",
    "What did we say our budget was?",
    "Do you remember what I told you my address was?",
    "Remind me what I said about my diet",
    "What was the name of my boss again?",
    "What did you say you knew about me?",
    "Haven't I told you how old I was?",
    "I've mentioned my hobby, which was it?",
    "Where did I already say I worked?",
    "What have I had for lunch plans?",
    "What did I describe as my favourite food?",
    "Have you been told where I live?",
]


@pytest.mark.parametrize("text", PRESENT + HELD_PRESENT)
def test_the_tense_of_a_report_does_not_ask_for_the_past(text: str) -> None:
    assert read_text(text, NOW).about_past is False


@pytest.mark.parametrize(
    "text",
    [
        "What did I say my previous job was?",
        "Where did I tell you I used to live?",
        "What did I say my job was in 2019?",
        "Have I mentioned my former employer?",
        "Where did I live before?",
        "Which city was I living in?",
        "What was my old address?",
        "Where did I work in 2020?",
        "What did I say about my ex-wife?",
        "Who was my dentist back then?",
        "What colour did I like as a child?",
        "Where had I lived until last year?",
        "Which car did I own two years ago?",
        "What did my cat eat at that time?",
    ],
)
def test_a_report_of_the_past_and_a_past_tense_are_about_the_past(text: str) -> None:
    assert read_text(text, NOW).about_past is True


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
