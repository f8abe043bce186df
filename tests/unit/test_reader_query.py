"""What a question wants from memory."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memos_vllm.cube.model import ItemType
from memos_vllm.plaintext.english.times import TimeRange
from memos_vllm.plaintext.reader.query import MemoryQuery, read_query, read_text

NOW = datetime(2023, 5, 17, 14, 30, tzinfo=UTC)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


@pytest.mark.parametrize(
    ("text", "intent"),
    [
        ("What do I like?", "question"),
        ("what is my cat called", "question"),
        ("And where do I live", "question"),
        ("Remind me where I parked", "question"),
        ("I forgot. Do you know her name?", "question"),
        ("I live in Oslo.", "statement"),
        ("My cat is called Miso", "statement"),
        ("Write a poem about my cat.", "command"),
        ("please summarize the report", "command"),
        ("I like tea. Suggest something.", "command"),
        ("", "statement"),
    ],
)
def test_it_asks_tells_or_orders(text: str, intent: str) -> None:
    assert read_text(text, NOW).intent == intent


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("What do I like?", ItemType.PREFERENCE),
        ("What's my favourite food", ItemType.PREFERENCE),
        ("When did I go to Rome?", ItemType.EVENT),
        ("What are my plans for June?", ItemType.EVENT),
        ("How do I reset the router?", ItemType.PROCEDURE),
        ("What does the manual say?", ItemType.PASSAGE),
        ("What is my dog called?", ItemType.FACT),
    ],
)
def test_the_kind_of_item_follows_from_the_words(text: str, first: ItemType) -> None:
    assert read_text(text, NOW).types[0] is first


def test_a_question_about_anything_wants_any_kind() -> None:
    assert read_text("What colour is my boat?", NOW).types == ()


@pytest.mark.parametrize(
    ("text", "is_past"),
    [
        ("Where did I use to live?", True),
        ("Where I used to work", True),
        ("What was my previous job?", True),
        ("What did we talk about in 2019?", True),
        ("Who was my boss back then?", True),
        ("Where do I live?", False),
        ("What happens next week?", False),
    ],
)
def test_the_past_is_asked_about_in_words_or_by_a_time(text: str, is_past: bool) -> None:
    assert read_text(text, NOW).about_past is is_past


def test_the_window_is_the_time_that_is_named() -> None:
    found = read_text("What did Bob do in May 2021?", NOW)
    assert found.window == TimeRange(
        datetime(2021, 5, 1, tzinfo=UTC), datetime(2021, 6, 1, tzinfo=UTC)
    )
    assert read_text("What does Bob do?", NOW).window is None
    assert read_text("What happened since 2019?", NOW).window == TimeRange(
        datetime(2019, 1, 1, tzinfo=UTC), None
    )


def test_people_and_things_that_are_named() -> None:
    found = read_text("Did Bob go to Rome with Ann Lee on Monday?", NOW)
    assert found.people == ("Bob", "Ann Lee")
    assert set(found.entities) == {"Bob", "Ann Lee", "Rome"}
    assert read_text("What is my name?", NOW).entities == ()


def test_without_a_user_text_nothing_is_asked() -> None:
    assert read_query([{"role": "system", "content": "S"}], NOW) == MemoryQuery("")
    assert read_query([], NOW) == MemoryQuery("")


def test_a_short_question_brings_the_one_before_along() -> None:
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
