"""Likes and dislikes: what is one, and what is about the conversation."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from memos_vllm.cube.model import Item, ItemType
from memos_vllm.plaintext.reader.by_rules import read_claims


def read(text: str) -> list[str]:
    time = datetime(2023, 5, 17, 12, tzinfo=UTC)
    turn = Item(type=ItemType.EPISODE, text=text, speaker="alice", time=time, source="m")
    return [item.text.removeprefix("alice ") for item in read_claims([turn], "alice")]


TWO = [
    (
        "I don't like small dogs and prefer larger breeds",
        ["does not like small dogs", "prefers larger breeds"],
    ),
    ("I love tea but hate coffee", ["likes tea", "does not like coffee"]),
    ("I like jazz and really enjoy old films", ["likes jazz", "likes old films"]),
    ("I live in Oslo and work at Acme", ["lives in Oslo", "works at Acme"]),
    ("I'm vegan and don't drink alcohol", ["is vegan", "does not drink alcohol"]),
    ("I hate mushrooms but love truffles", ["does not like mushrooms", "likes truffles"]),
    ("I speak German and am learning Spanish", ["speaks German", "is learning Spanish"]),
    ("I enjoy hiking and I can't stand crowds", ["likes hiking", "does not like crowds"]),
    ("I am a nurse and live in Bern", ["is a nurse", "lives in Bern"]),
    ("I can't stand golf but adore tennis", ["does not like golf", "likes tennis"]),
    ("I quit my job and moved to Lima", ["quit their job", "lives in Lima"]),
]
HELD_TWO = [
    ("I avoid dairy but love cheese", ["does not like dairy", "likes cheese"]),
    ("I like cats and also love dogs", ["likes cats", "likes dogs"]),
    ("I dislike horror and prefer comedies", ["does not like horror", "prefers comedies"]),
    ("I own a boat and live in Split", ["has a boat", "lives in Split"]),
    ("I'm allergic to nuts and never eat shellfish", ["is allergic to nuts", "does not eat shellfish"]),
    ("I work as a nurse and have two kids", ["works as a nurse", "has two kids"]),
    ("I don't eat meat but enjoy seafood now", ["does not eat meat", "likes seafood"]),
    ("I sold my car and bought a bike", ["no longer has a car", "has a bike"]),
    ("I left Acme for Globex and love cycling", ["works at Globex", "likes cycling"]),
    ("i like tea and hate coffee", ["likes tea", "does not like coffee"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "claimed"), TWO + HELD_TWO)
def test_a_second_verb_with_the_same_subject_is_a_second_statement(text, claimed) -> None:
    assert read(text) == claimed


ONE = [
    ("I like food and drink", ["likes food", "likes drink"]),
    ("I love work and travel", ["likes work", "likes travel"]),
    ("I like the Beatles", ["likes the Beatles"]),
    ("I love the sea", ["likes the sea"]),
    ("I love the smell of rain", ["likes the smell of rain"]),
    ("I enjoy long walks", ["likes long walks"]),
    ("I prefer tea to coffee", ["prefers tea to coffee"]),
    ("I'm not a fan of nuts", ["does not like nuts"]),
    ("I've always loved trains", ["likes trains"]),
    ("I really like spicy food", ["likes spicy food"]),
    ("I dislike hybrid and electric cars", ["does not like hybrid and electric cars"]),
    ("I dislike using oil or butter", ["does not like using oil or butter"]),
    ("I avoid buses when travelling", ["does not like buses when travelling"]),
    ("I avoid street food due to hygiene concerns", ["does not like street food"]),
    ("I have a peanut allergy", ["is allergic to peanuts"]),
]


@pytest.mark.parametrize(("text", "claimed"), ONE)
def test_a_lasting_like_is_a_claim(text, claimed) -> None:
    assert read(text) == claimed


ABOUT_THE_CONVERSATION = [
    "I like the options",
    "I like that idea",
    "I love your suggestions",
    "I like the yoga or stretching idea",
    "I love the results",
    "I really like the direction this is headed.",
    "I like the second option",
    "I like the Classic and Simple style",
    "I enjoy their interactive exercises",
    "I don't like the first version",
    "I prefer the shorter one",
    "I like these",
    "I love this!",
    "I like all of them",
    "I like both options",
    "I prefer your first answer",
    "I'm not a fan of that",
]
HELD_ABOUT_THE_CONVERSATION = [
    "I love the flavor it adds to chicken",
    "I like the sound of the Basil Margarita",
    "I love those recipes",
    "I like your style",
    "I hate this plan",
    "I prefer the blue one",
    "I like such tips",
    "I enjoy learning about it",
    "I love the spreadsheet idea",
    "I like some of these",
    "I like its design",
    "I really enjoy the conversation",
    "I don't like the tone of the email",
    "I'm into the whole concept",
    "I adore the new layout",
    "I like recipe suggestions",
    "I like option B",
    "I prefer plan two",
    "For the party, I prefer red balloons",
]


@pytest.mark.parametrize("text", ABOUT_THE_CONVERSATION + HELD_ABOUT_THE_CONVERSATION)
def test_a_like_of_something_in_the_conversation_is_no_claim(text: str) -> None:
    assert read(text) == []
