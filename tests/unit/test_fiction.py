"""Stories, games and quotations say nothing of the person; a value that a rule ends is marked in other words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from memos_vllm.cube.model import Claim, Item, ItemType, Standing
from memos_vllm.plaintext.claims.fold import fold
from memos_vllm.plaintext.claims.subjects import is_fiction, is_request
from memos_vllm.plaintext.english.events import tells_event

DAY = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "Let's pretend my cat is called Tofu.",
        'In the film she says "I am allergic to soy".',
        "As the pirate in our story, I work at Initech.",
        "Stell dir vor, ich wohne jetzt auf dem Mond.",
        "Dans le film, je vis à Rome.",
        "Imaginemos que vivo en Roma.",
        "Facciamo finta che io viva a Roma.",
        "मान लो मैं रोम में रहता हूँ।",
        "假装我住在罗马。",
        "彼女は「私は今パリに住んでいます」と言った",
        "Er sagte: „Ich wohne jetzt in Rom“.",
    ],
)
def test_a_story_a_game_or_a_quotation_is_told(text):
    assert is_fiction(text)


@pytest.mark.parametrize(
    "text",
    [
        "I moved to Paris.",
        'I watch "The Witcher" every night now.',
        "I work in the game industry now.",
        "Ich arbeite jetzt im Filmverleih.",
        "我现在住在上海。",
        "Vivo en Roma ahora.",
        "You can't imagine how happy I am that I moved to Lisbon.",
        "I won't pretend that I miss Paris, I live in Rome now.",
    ],
)
def test_what_is_of_the_person_is_not(text):
    assert not is_fiction(text)


@pytest.mark.parametrize(
    ("text", "asks"),
    [
        ("Name a restaurant in Lisbon.", True),
        ("Schreib mir ein Gedicht.", True),
        ("教えてください", True),
        ("My name is Ann.", False),
        ("I list my books in a file.", False),
        ("Ich wohne in Rom.", False),
    ],
)
def test_a_request_to_the_assistant_is_told(text, asks):
    assert is_request(text) is asks


@pytest.mark.parametrize(
    ("text", "is_event"),
    [
        ("I met Bababo in the park.", True),
        ("Yesterday I visited my aunt.", True),
        ("We finally watched the film.", True),
        ("I need a wheelchair.", False),
        ("I live in Rome.", False),
        ("I've ended up in Porto.", False),
        ("I am allergic to nuts.", False),
        ("My manager is Laura.", False),
    ],
)
def test_what_happened_once_stays_true(text, is_event):
    assert tells_event(text) is is_event


def stated(text, day=0, attribute=None, value=None):
    claim = Claim(
        subject="ann",
        attribute=attribute,
        value=value,
        sources=[f"{text}:user"],
        standing=None if attribute else Standing.FACT,
    )
    moment = DAY + timedelta(days=day)
    return Item(
        type=ItemType.FACT,
        text=text,
        speaker="ann",
        time=moment,
        source=f"{text}:user",
        claim=claim,
    )


def test_sentences_that_state_an_ended_value_are_marked_in_whatever_words():
    known = fold(
        [],
        [
            stated("ann lives in Seville", 0, "home", "Seville"),
            stated("By the way, my home is Seville.", 1),
            stated("My sister lives in Seville.", 2),
            stated("I like oranges.", 3),
        ],
    ).items
    moved = fold(known, [stated("ann lives in Paris", 9, "home", "Paris")])
    marks = {each.text: each.claim.followed_at for each in moved.items if each.claim}
    assert marks["By the way, my home is Seville."] == DAY + timedelta(days=9)
    assert marks["My sister lives in Seville."] is None
    assert marks["I like oranges."] is None
    assert [each.text for each in moved.ended] == ["ann lives in Seville"]


def test_a_value_in_a_sentence_on_something_else_is_not_marked():
    known = fold(
        [],
        [
            stated("ann's favourite colour is blue", 0, "favourite_colour", "blue"),
            stated("My car is blue.", 1),
            stated("Blue is the colour that I love most.", 2),
        ],
    ).items
    changed = fold(known, [stated("ann's favourite colour is red", 9, "favourite_colour", "red")])
    marks = {each.text: each.claim.followed_at for each in changed.items if each.claim}
    assert marks["My car is blue."] is None
    assert marks["Blue is the colour that I love most."] is not None
