"""`prompt.kept_tokens`: what was retrieved for an earlier message of a conversation stays in front of it."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from datetime import UTC, datetime

import pytest

from memos_vllm.cube.model import CubePatch, ExplicitPayload, Item, NewCube, NewMeta, Placement
from memos_vllm.erasure.eraser import Eraser
from memos_vllm.governance.principal import Role
from memos_vllm.learning.background import BackgroundTasks
from memos_vllm.learning.remember import Rememberer
from memos_vllm.options import MemoryOptions
from memos_vllm.pipeline import Pipeline
from memos_vllm.ports import Chat
from memos_vllm.scheduler.kept import REASON, KeptItem, digest_of, marks_of, still_true
from memos_vllm.scheduler.plan import PlanEntry
from tests.conftest import FakeQueue, make_config, principal
from tests.unit.test_pipeline import FakeExchange

ALICE = principal("alice", "acme", Role.ADMIN)
BOB = principal("bob", "acme", Role.ADMIN)
BOAT, CAR = "The boat of the harbour is blue.", "The car in the garage is green."
ASK_BOAT, ASK_CAR = "Which colour has the boat of the harbour?", "And the car in the garage?"


@pytest.fixture
def config(tmp_path):
    return make_config(tmp_path, prompt={"kept_tokens": 200}, retrieval={"top_k": 1})


@pytest.fixture
def pipeline(system):
    rememberer = Rememberer(system, FakeQueue(system.jobs, system.config.jobs))
    return Pipeline(system, rememberer, BackgroundTasks())


class Conversation:
    """A client that sends its whole history, without memory, with each message."""

    def __init__(self, pipeline, who=ALICE, **options):
        self.pipeline, self.who, self.options = pipeline, who, options
        self.history = []

    def say(self, text):
        """The prompt of the next turn, as texts of its messages, and its plan."""
        self.history.append({"role": "user", "content": text})
        options = MemoryOptions(write=False, **self.options)
        chat = Chat(self.who, options, list(self.history), "demo")
        exchange = FakeExchange()

        async def run():
            await self.pipeline.chat(chat, exchange)
            await self.pipeline.tasks.drain()

        asyncio.run(run())
        sent = exchange.answered[0] or self.history
        self.history.append({"role": "assistant", "content": "I see."})
        return [message["content"] for message in sent], chat.plan


def know(system, text, who=ALICE, **meta):
    payload = ExplicitPayload(content=[Item(text=text)])
    new = NewCube(meta=NewMeta(**meta), payload=payload)
    return system.create(dataclasses.replace(who, person=meta.get("person", who.person)), [new])[0]


@pytest.fixture
def cubes(system):
    return [know(system, BOAT).meta.id, know(system, CAR).meta.id]


def test_each_prompt_begins_with_the_one_before(pipeline, cubes):
    """So the engine's prefix cache holds the message before, its memory and its reply."""
    talk = Conversation(pipeline)
    prompts = [talk.say(text)[0] for text in (ASK_BOAT, ASK_CAR, "Thank you, and the boat?")]
    for before, after in itertools.pairwise(prompts):
        assert after[: len(before)] == before
    assert BOAT in prompts[1][0]
    assert CAR in prompts[1][2]
    assert BOAT not in prompts[2][4], "it stands in front of the first message"


def test_the_plan_tells_what_was_kept(pipeline, cubes):
    talk = Conversation(pipeline)
    _, first = talk.say(ASK_BOAT)
    _, plan = talk.say(ASK_CAR)
    assert all(each.kept is (each.reason == REASON) for each in plan.used)
    assert {(each.cube, each.kept) for each in plan.used} == {
        (cubes[0], True),
        (cubes[1], False),
    }
    assert plan.injected_tokens > first.injected_tokens
    _, plan = talk.say(ASK_BOAT)
    reasons = {each.reason for each in plan.entries if each.decision == "rejected"}
    assert "stands in front of an earlier message" in reasons


@pytest.mark.parametrize(
    "change", ["nothing", "deleted", "changed", "shared no more", "the head", "erased"]
)
def test_what_changes_takes_all_that_is_kept_away(system, pipeline, change):
    shared = know(system, BOAT, shared=True, name="boat")
    know(system, CAR)
    talk = Conversation(pipeline)
    assert BOAT in talk.say(ASK_BOAT)[0][0]
    if change == "deleted":
        system.delete(ALICE, shared.meta.id)
    elif change == "changed":
        items = ExplicitPayload(content=[Item(text="The boat of the harbour is red.")])
        system.update(ALICE, shared.meta.id, CubePatch(payload=items))
    elif change == "shared no more":
        system.update(ALICE, shared.meta.id, CubePatch(access={"readers": ["bob"]}))
    elif change == "the head":
        know(system, "Alice is at sea.", placement=Placement.STABLE)
    elif change == "erased":
        Eraser(system).request(ALICE, "alice")
    prompt, _ = talk.say(ASK_CAR)
    assert (BOAT in prompt[0]) is (change == "nothing")


@pytest.mark.parametrize("mark", ["over", "followed"])
def test_a_mark_of_the_new_question_takes_what_has_none_away(system, mark):
    """A value that was true when it was retrieved, and has been corrected since."""
    know(system, BOAT)
    (found,) = system.search(ALICE, ASK_BOAT, None, 1).found
    entry = PlanEntry(
        cube=found.recalled.cube_id,
        version=found.recalled.version,
        item=found.recalled.item.id,
        placement=Placement.RETRIEVED,
        reason="matches the question",
    )
    blocks = {0: [KeptItem(entry, BOAT, digest_of(found.recalled), marks_of(found))]}
    recalled = system.views.recall(ALICE, [entry.item or ""])
    assert still_true(blocks, recalled, [found])
    marked = dataclasses.replace(found, **{mark: datetime(2026, 5, 1, tzinfo=UTC)})
    assert not still_true(blocks, recalled, [marked])


def test_a_conversation_of_another_or_another_conversation_has_nothing_of_it(system, pipeline):
    know(system, BOAT)
    mine = Conversation(pipeline)
    mine.say(ASK_BOAT)
    theirs = Conversation(pipeline, BOB)
    theirs.history = list(mine.history)
    assert BOAT not in "".join(theirs.say(ASK_CAR)[0])
    edited = Conversation(pipeline)
    edited.history = [{"role": "user", "content": "Hello?"}, *mine.history[1:]]
    assert BOAT not in edited.say(ASK_CAR)[0][0]


@pytest.mark.parametrize(
    "options", [{"budget_tokens": 500}, {"as_of": 86_400}, {"retrieve": False}, {"top_k": 0}]
)
def test_a_request_with_a_limit_of_its_own_or_of_another_time_keeps_nothing(
    pipeline, cubes, options
):
    talk = Conversation(pipeline)
    talk.say(ASK_BOAT)
    talk.options = options
    assert talk.say(ASK_CAR)[0][0] == ASK_BOAT
    talk = Conversation(pipeline, **options)
    talk.say(ASK_BOAT)
    assert talk.say(ASK_CAR)[0][0] == ASK_BOAT


def test_at_the_limit_all_of_it_goes_at_once(system, tmp_path):
    """What slides would break the prefix in every turn."""
    from memos_vllm.system import MemorySystem

    folder = tmp_path / "small"
    folder.mkdir()
    tokens = 30
    config = make_config(folder, prompt={"kept_tokens": tokens}, retrieval={"top_k": 1})
    small = MemorySystem(config).open()
    try:
        rememberer = Rememberer(small, FakeQueue(small.jobs, small.config.jobs))
        for number in range(8):
            know(small, f"The code of door {number} is {number}00{number} at night.")
        talk = Conversation(Pipeline(small, rememberer, BackgroundTasks()))
        kept = []
        for number in range(8):
            _, plan = talk.say(f"What is the code of door {number}?")
            kept.append(sum(each.tokens for each in plan.used if each.reason == REASON))
        assert max(kept) <= tokens
        assert max(kept) > 0
        assert 0 in kept[2:], "it began anew"
    finally:
        small.close()


def test_without_the_setting_each_message_has_its_own_memory_alone(system, tmp_path):
    from memos_vllm.system import MemorySystem

    folder = tmp_path / "off"
    folder.mkdir()
    plain = MemorySystem(make_config(folder, retrieval={"top_k": 1})).open()
    try:
        know(plain, BOAT)
        rememberer = Rememberer(plain, FakeQueue(plain.jobs, plain.config.jobs))
        talk = Conversation(Pipeline(plain, rememberer, BackgroundTasks()))
        assert BOAT in talk.say(ASK_BOAT)[0][0]
        assert talk.say(ASK_CAR)[0][0] == ASK_BOAT
    finally:
        plain.close()
