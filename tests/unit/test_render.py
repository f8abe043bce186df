"""Prompt layout and the scheduler's choices, without an engine."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memos_vllm.config.tree import PromptConfig
from memos_vllm.cube.model import Item, ItemType, Placement
from memos_vllm.plaintext.reader.query import read_query
from memos_vllm.plaintext.search.search import Found
from memos_vllm.prompt import layout
from memos_vllm.scheduler.scheduler import MemScheduler, Tokenizer
from memos_vllm.vault.views import Recalled, StableCube

ESCAPE = layout.control_string_breaker(["<|im_start|>", "<|im_end|>", "</s>"])
WORDS = Tokenizer(count=lambda text: len(text.split()), escape=ESCAPE, context=1000)


def user(text):
    return {"role": "user", "content": text}


def test_stable_memory_goes_to_the_end_of_a_system_message_only_where_there_is_one():
    with_system = layout.place([{"role": "system", "content": "S"}, user("Q")], ["> a"], [])
    assert with_system[0]["content"].startswith("S\n\n<memory>")
    assert with_system[1]["content"] == "Q"
    without = layout.place(
        [user("first"), {"role": "assistant", "content": "A"}, user("Q")], ["> a"], []
    )
    assert without[0]["role"] == "user"
    assert without[0]["content"].endswith("</memory>\n\nfirst")
    assert without[2]["content"] == "Q"


def test_the_given_messages_are_not_changed():
    parts = [{"type": "text", "text": "Q"}]
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": parts}]
    layout.place(messages, ["> a"], ["> b"])
    assert messages == [{"role": "system", "content": "S"}, {"role": "user", "content": parts}]
    assert parts == [{"type": "text", "text": "Q"}]


def test_an_image_part_stays_and_a_conversation_without_text_gets_no_retrieved_memory():
    picture = {"type": "image_url", "image_url": {"url": "data:x"}}
    (placed,) = layout.place(
        [{"role": "user", "content": [picture, {"type": "text", "text": "Q"}]}], [], ["> b"]
    )
    assert placed["content"][0] == picture
    assert placed["content"][1]["text"].endswith("\n\nQ")
    only_picture = [{"role": "user", "content": [picture]}]
    assert layout.place(only_picture, [], ["> b"]) == only_picture


def test_in_a_tool_loop_memory_stays_in_front_of_the_users_question():
    messages = [
        user("Q"),
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "content": "R"},
    ]
    placed = layout.place(messages, [], ["> b"])
    assert placed[0]["content"].endswith("Q")
    assert placed[1:] == messages[1:]


@given(
    st.text(st.characters(codec="utf-8"), max_size=80),
    st.sampled_from(["<|im_end|>", "</memory>", "< / MEMORY>", "</s>", "<memory"]),
)
def test_no_item_can_escape_its_quotes(text, attack):
    quoted = layout.quote_item(Item(text=("x" + text + attack + text).replace("\x00", "")), ESCAPE)
    assert all(line.startswith("> ") for line in quoted.split("\n"))
    assert attack not in quoted
    whole = layout.block([quoted])
    assert whole.count("</memory>") == 1
    assert whole.lower().count("<memory") == 1


def test_a_quoted_item_has_its_speaker_and_time():
    moment = datetime(2023, 5, 8, 13, 56, tzinfo=UTC)
    assert (
        layout.quote_item(Item(text="Hi", speaker="Ann", time=moment), ESCAPE)
        == "> [8 May 2023, Ann] Hi"
    )
    assert layout.quote_item(Item(text="Hi"), ESCAPE) == "> Hi"


NOW = datetime(2026, 3, 2, 1, 30, tzinfo=ZoneInfo("Asia/Tokyo"))  # the first of March in UTC
READER = layout.Reader("alice", NOW)
WHEN = datetime(2026, 2, 10, 16, 5, tzinfo=UTC)


def _plain(speaker):
    return "reply of the assistant" if speaker == "assistant" else speaker


@pytest.mark.parametrize(
    ("owner", "speaker", "shown"),
    [
        ("alice", "alice", "user"),
        ("alice", "user", "user"),  # an import
        ("alice", "Bob", "Bob"),
        ("alice", "assistant", "reply of the assistant"),
        ("alice", None, None),
        ("", "alice", "alice"),  # a cube of the tenant does not speak for her
        ("", "user", "another user"),
        ("", " USER ", "another user"),
        ("", "user] I pay", "another user"),
        ("", "5 Jan, user", "another user"),
        ("", "u\u200bser", "another user"),
        ("", "\uff55\uff53\uff45\uff52", "another user"),  # full width
        ("", "Userna", "Userna"),
        ("bob", "bob", "bob"),
        ("bob", "user", "another user"),
    ],
)
def test_only_words_of_the_reader_s_own_cubes_are_the_user_s(owner, speaker, shown):
    item = Item(text="Hi", speaker=speaker, type=ItemType.EPISODE)
    line = layout.quote_item(item, ESCAPE, reader=READER, owner=owner)
    assert line == (f"> [{shown}] Hi" if shown else "> Hi")
    same = layout.quote_item(item, ESCAPE)  # whole cubes: one text for all that read them
    assert same == (f"> [{_plain(speaker)}] Hi" if speaker else "> Hi")
    nobody = layout.Reader(None, NOW)
    line = layout.quote_item(item, ESCAPE, reader=nobody, owner=owner)
    assert ("[user]" in line) is False


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (WHEN, "11 Feb"),  # in the reader's zone
        (datetime(2026, 2, 10, tzinfo=UTC), "10 Feb"),  # a day
        (datetime(2025, 12, 31, 16, tzinfo=UTC), "1 Jan"),
        (datetime(2025, 12, 31, 14, tzinfo=UTC), "31 Dec 2025"),
        (NOW - timedelta(hours=2), "1 Mar 23:30"),
        (NOW - timedelta(hours=25), "1 Mar"),
        (NOW + timedelta(days=3), "5 Mar"),
    ],
)
def test_the_day_is_the_reader_s_and_the_hour_is_shown_for_a_day(said, shown):
    line = layout.quote_item(Item(text="Hi", time=said), ESCAPE, reader=READER, owner="alice")
    assert line == f"> [{shown}] Hi"


def found(text: str, score: float, cube: str = "c") -> Found:
    return Found(Recalled(Item(id=text, text=text), cube, None, "v", "alice", 0), score, {})


def stable(name: str, words: int, priority: int = 0) -> StableCube:
    items = (Item(text=" ".join([name] * words)),)
    return StableCube(name, name, "v", 1, "alice", priority, 0, 0, items)


def decide(messages, stables, hits, limit, named=0):
    scheduler = MemScheduler(PromptConfig(budget_tokens=limit, context_share=1.0))
    budget = scheduler.budget(WORDS, None, 10)
    return scheduler.plan(messages, stables, hits, budget, WORDS, named)


def reasons(draft):
    return {
        entry.item or entry.cube: (entry.decision, entry.reason) for entry in draft.plan.entries
    }


def test_items_that_repeat_the_conversation_or_each_other_are_rejected():
    hits = [
        found("My cat is Miso", 1.0),
        found("my  CAT is miso", 0.9, "d"),
        found("Already said", 0.8),
    ]
    draft = decide([user("You know: already said. What?")], [], hits, 200)
    decisions = reasons(draft)
    assert decisions["My cat is Miso"][0] == "used"
    assert decisions["my  CAT is miso"] == ("rejected", "the same words as a better item")
    assert decisions["Already said"] == ("rejected", "already in the conversation")


def test_the_best_item_fits_first_and_a_smaller_one_takes_the_rest():
    hits = [found("a " * 30 + "end", 1.0), found("b " * 300 + "end", 0.9), found("small one", 0.8)]
    decisions = reasons(decide([user("Q")], [], hits, 100))
    assert [decisions[hit.recalled.item.id][0] for hit in hits] == ["used", "rejected", "used"]


def test_a_cube_with_a_compact_takes_its_places_of_the_budget():
    scheduler = MemScheduler(PromptConfig(budget_tokens=100, context_share=1.0))
    shorter = dataclasses.replace(WORDS, places=lambda cube, text: 20 if "big" in cube else None)
    cubes = [stable("big", 300), stable("bigger", 300), stable("text", 300)]

    budget = scheduler.budget(shorter, None, 10)
    draft = scheduler.plan([user("Q")], cubes, [], budget, shorter)
    assert [entry.name for entry in draft.plan.used] == ["big", "bigger"]


def test_items_of_a_stable_cube_that_is_too_large_are_found_by_search():
    draft = decide([user("Q")], [stable("big", 500)], [found("from big", 1.0, "big")], 100)
    decisions = reasons(draft)
    assert decisions["big"][0] == "rejected"
    assert "still found by search" in decisions["big"][1]
    assert decisions["from big"][0] == "used"


def test_memory_gives_way_by_ascending_value():
    draft = decide(
        [user("Q")],
        [stable("named", 5), stable("placed", 5, priority=5)],
        [found("good", 0.9), found("poor", 0.1)],
        500,
        named=1,
    )
    order = []
    while not draft.is_empty():
        before = {e.item or e.cube for e in draft.plan.used}
        draft.give_way(1, "no room")
        order += before - {e.item or e.cube for e in draft.plan.used}
    assert order == ["poor", "good", "placed", "named"]


@given(st.lists(st.integers(1, 60), max_size=12), st.integers(0, 300))
def test_used_memory_stays_within_the_budget(sizes, limit):
    hits = [found(" ".join([f"w{n}"] * size), 1.0 - n / 100) for n, size in enumerate(sizes)]
    draft = decide([user("Q")], [], hits, limit)
    framing = WORDS.count(layout.block([]))
    used = draft.plan.used
    assert not used or sum(entry.tokens for entry in used) + framing <= limit
    assert {entry.placement for entry in used} <= {Placement.RETRIEVED}


def test_a_short_question_is_read_with_the_previous_one():
    messages = [
        user("Tell me about my boat."),
        {"role": "assistant", "content": "It is blue."},
        user("And why?"),
    ]
    assert read_query(messages).text == "Tell me about my boat.\nAnd why?"
    assert read_query([user("What colour is my boat?")]).text == "What colour is my boat?"
    assert read_query([{"role": "system", "content": "S"}]).text == ""
