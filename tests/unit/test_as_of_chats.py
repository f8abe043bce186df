"""Chats with the memory of a past moment."""

from __future__ import annotations

import asyncio

import pytest

from memos_vllm.cube.model import CubePatch, Placement, State
from memos_vllm.errors import NotFound, Unprocessable
from memos_vllm.options import MemoryOptions
from memos_vllm.ports import Chat
from memos_vllm.steps.adapters import AdapterChooser
from memos_vllm.steps.as_of import candidates
from tests.unit.conftest import ALICE
from tests.unit.test_as_of import change, everywhere, keep, now
from tests.unit.test_pipeline import ask, make_pipeline


def test_a_chat_of_a_past_moment_has_its_text_and_is_not_remembered(system):
    keep(system, "House rule: the door is blue.", name="rules", placement=Placement.STABLE)
    cube = keep(system, "The meeting is in the blue room.")
    first = now()
    change(system, cube, "The meeting is in the green room.")
    change(system, "rules", "House rule: the door is green.")
    pipeline = make_pipeline(system)
    plan, messages = ask(
        pipeline, "Which room is the meeting in?", options={"as_of": first.isoformat()}
    )
    text = str(messages)
    assert "blue room" in text
    assert "door is blue" in text
    assert "green" not in text
    assert plan.as_of == first
    assert (plan.written, system.turns.waiting()) == (False, [])
    assert "as_of" in plan.not_written
    kept = {item.version for item in plan.used}
    assert system.vault.get(ALICE, cube).meta.version not in kept
    plan, _ = ask(pipeline, "And now?", options={"as_of": 0, "write": True})
    assert plan.written
    plan, messages = ask(pipeline, "Which room is the meeting in?")
    assert plan.as_of is None
    assert "blue" not in str(messages)


def test_a_chat_before_the_first_memory_has_none(system):
    first = now()
    keep(system, "The meeting is in the blue room.")
    _, messages = ask(make_pipeline(system), "Which room?", options={"as_of": first.isoformat()})
    assert messages is None


def test_kv_is_used_only_where_nothing_has_changed_since(system):
    def kv_of(moment):
        chat = Chat(ALICE, MemoryOptions(as_of=moment.isoformat(), kv="near"), [], "demo")
        asyncio.run(candidates(system, chat, AdapterChooser(system.views, None)))
        return chat.options.kv

    cube = keep(system, "The door is blue.", placement=Placement.STABLE)
    first = now()
    assert kv_of(first) == "near"
    later = keep(system, "The window is red.")
    assert kv_of(first) == "none"
    second = now()
    assert kv_of(second) == "near"
    change(system, cube, "The door is green.")
    assert (kv_of(second), kv_of(now())) == ("none", "near")
    system.update(ALICE, later, CubePatch(state=State.ARCHIVED))
    assert kv_of(second) == "none"


def test_named_cubes_are_those_of_then(system):
    cube = keep(system, "The door is blue.", name="door")
    first = now()
    change(system, cube, "The door is green.")
    keep(system, "The window is red.", name="window")
    pipeline = make_pipeline(system)
    options = {"as_of": first.isoformat(), "retrieve": False}
    _, messages = ask(pipeline, "Hello?", options={**options, "cubes": ("door",)})
    assert "door is blue" in str(messages)
    with pytest.raises(NotFound):
        ask(pipeline, "Hello?", options={**options, "cubes": ("window",)})
    with pytest.raises(Unprocessable):
        ask(pipeline, "Hello?", options={**options, "adapter": "none-such"})


def test_an_order_to_forget_is_obeyed_in_a_chat_of_a_past_moment(system, chat):
    chat("I live in Paris.")
    first = now()
    plan, _ = ask(
        make_pipeline(system), "Forget that I live in Paris.", options={"as_of": first.isoformat()}
    )
    assert plan.forgot.count >= 1
    assert "Paris" not in everywhere(system, [first])
