"""What becomes memory of a request, and what of it comes back: repeated questions, replies, lost clients."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools

import pytest

from memos_vllm.cube.model import ExplicitPayload, Item, ItemType, Mark, NewCube
from memos_vllm.governance.principal import Role
from memos_vllm.learning.background import BackgroundTasks
from memos_vllm.learning.remember import Rememberer
from memos_vllm.options import MemoryOptions
from memos_vllm.pipeline import Pipeline
from memos_vllm.ports import Chat
from memos_vllm.vault.views import CubeFilter
from tests.conftest import FakeQueue, principal
from tests.unit.test_pipeline import FakeExchange

ALICE = dataclasses.replace(principal("alice"), session="s")
_NUMBERS = itertools.count()


class FakeEngine(FakeExchange):
    """Answers with a text and a finish reason, or is cancelled while it answers."""

    def __init__(self, reply="I see.", finish_reason="stop", gone=False):
        super().__init__()
        self.reply, self.finish_reason, self.gone = reply, finish_reason, gone
        self.request_id = f"r-{next(_NUMBERS)}"

    async def answer(self, chat, messages):
        if self.gone:
            raise asyncio.CancelledError
        return await super().answer(chat, messages)

    async def deliver(self, chat, reply, finish):
        await finish(self.request_id, self.reply, self.finish_reason)
        return reply


@pytest.fixture
def talk(system):
    """Sends a message as Alice and has its turn remembered: (plan, prompt)."""
    rememberer = Rememberer(system, FakeQueue(system.jobs, system.config.jobs))
    pipeline = Pipeline(system, rememberer, BackgroundTasks())

    def say(text, engine=None, who=ALICE, session=None, messages=None, **fields):
        engine = engine or FakeEngine()
        options = MemoryOptions(**fields.pop("options", {}))
        who = dataclasses.replace(who, session=session or who.session)
        messages = messages or [{"role": "user", "content": text}]
        chat = Chat(who, options, messages, "demo", **fields)

        async def run():
            try:
                await pipeline.chat(chat, engine)
            except asyncio.CancelledError:
                assert engine.gone
            await pipeline.tasks.drain()

        asyncio.run(run())
        for turn in system.turns.waiting():
            rememberer.remember(turn)
        placed = engine.answered[0] if engine.answered else None
        return chat.plan, placed[-1]["content"] if placed is not None else ""

    return say


def stored(system, who=ALICE):
    headers, _ = system.views.page(who, CubeFilter(person=who.person))
    return [
        item
        for header in headers
        if (header.name or "").startswith("chat-")
        for item in system.vault.get(who, header.id).items
    ]


# -- the same question again ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "forms",
    [
        ["What is the name of my cat?"],
        [
            "What is the name of my cat?",
            "what's my cat's name",
            "And the name of my cat, what is it?",
        ],
        ["Tell me the name of my cat."],
        ["Wie heißt meine Katze?"],
    ],
)
def test_a_question_asked_twenty_times_finds_its_answer_each_time(system, talk, forms):
    answer = (
        "Meine Katze heißt Miso." if "Katze" in forms[0] else "My cat is called Miso, by the way."
    )
    talk(answer, session="first")
    for number in range(20):
        asked = forms[number % len(forms)]
        reply = ("I do not know.", f"I cannot say which, number {number}.", "Miso?")[number % 3]
        plan, prompt = talk(asked, FakeEngine(reply), session=f"s-{number}", options={"top_k": 4})
        assert answer in prompt, (number, [entry.reason for entry in plan.used])
        replies = [line for line in prompt.splitlines() if "reply of the assistant" in line]
        assert len(replies) <= 2, "that of the first turn, and one to all the askings"


def test_a_statement_in_the_words_of_the_question_is_an_answer(system, talk):
    talk("My cat is called Miso.", session="first")
    _, prompt = talk("Is my cat called Miso?", session="second")
    assert "My cat is called Miso." in prompt


def test_rejected_results_are_replaced_by_those_behind_them(system, talk):
    """Duplicates of one another, of the conversation and too large ones take no place."""
    texts = [*["The blue boat is fast."] * 3, "A blue boat. " + "very " * 900 + "fast boat.", *(
        f"Boat {n} is blue." for n in range(6)
    )]  # fmt: skip
    system.create(ALICE, [NewCube(payload=ExplicitPayload(content=[Item(text=t) for t in texts]))])
    messages = [
        {"role": "user", "content": "Boat 1 is blue. Boat 2 is blue."},
        {"role": "assistant", "content": "Noted."},
        {"role": "user", "content": "Which boat is blue and fast?"},
    ]
    plan, prompt = talk("", messages=messages, options={"top_k": 5, "budget_tokens": 200})
    used = plan.used
    assert len(used) == 5
    assert prompt.count("The blue boat is fast.") == 1
    assert {f"Boat {n} is blue." for n in (0, 3, 4, 5)} <= {
        line.removeprefix("> ").split("] ")[-1] for line in prompt.splitlines()
    }


# -- replies -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "mark"),
    [("length", Mark.CUT), ("content_filter", Mark.FILTERED), ("abort", Mark.ABORTED)],
)
def test_a_reply_that_did_not_end_by_itself_is_listed_and_not_found(system, talk, reason, mark):
    talk("Tell me of my dog Argo.", FakeEngine("Argo is a cat, and", reason), session="one")
    words, reply = stored(system)
    assert (words.mark, reply.mark) == (None, mark)
    assert reply.text == "Argo is a cat, and"
    _, prompt = talk("Which animal is Argo, a cat?", session="two")
    assert "Argo is a cat, and" not in prompt
    assert "Tell me of my dog Argo." in prompt
    found = system.search(ALICE, "Argo cat", None, 10).found
    assert [each.recalled.item.mark for each in found if each.recalled.item.mark] == []


@pytest.mark.parametrize("options", [{"retrieve": False}, {"top_k": 0}, {"budget_tokens": 0}])
def test_a_reply_given_without_memory_is_no_evidence(system, talk, options):
    talk("My dog is called Argo.", session="one")
    talk("What is my dog called?", FakeEngine("Your dog is Rex."), session="two", options=options)
    assert [i.mark for i in stored(system) if i.text == "Your dog is Rex."] == [Mark.WITHOUT_MEMORY]
    _, prompt = talk("Is my dog called Rex?", session="three")
    assert "My dog is called Argo." in prompt
    assert "Your dog is Rex." not in prompt


def test_a_reply_given_with_memory_is_evidence_and_is_said_to_be_the_assistants(system, talk):
    talk("Which wine goes with fish?", FakeEngine("A dry Riesling goes with fish."), session="one")
    _, prompt = talk("Which Riesling did you name for fish?", session="two")
    (line,) = [line for line in prompt.splitlines() if "A dry Riesling" in line]
    assert "reply of the assistant]" in line


def test_replies_take_few_places_and_only_their_matching_part(system, talk):
    filler = " ".join(
        f"This sentence number {n} is about nothing in particular." for n in range(40)
    )
    for number in range(6):
        reply = f"{filler} Restaurant {number} in Lisbon serves grilled sardines. {filler}"
        talk(f"Name restaurant {number} in Lisbon.", FakeEngine(reply), session=f"s-{number}")
    talk("I dislike sardines, and I go to Lisbon in May.", session="own")
    _, prompt = talk("Which restaurant in Lisbon serves sardines?", session="now")
    replies = [line for line in prompt.splitlines() if "reply of the assistant" in line]
    assert 1 <= len(replies) <= system.config.retrieval.most_replies
    assert all("serves grilled sardines" in line for line in replies)
    assert all(len(line.split()) <= system.config.retrieval.reply_tokens + 12 for line in replies)
    assert "I dislike sardines" in prompt


def test_replies_give_way_before_the_persons_words(system, talk):
    talk("My boat is blue.", FakeEngine("Your boat is blue, and very fast indeed."), session="one")
    _, prompt = talk("How blue is my boat?", session="two", options={"budget_tokens": 38})
    assert "My boat is blue." in prompt
    assert "reply of the assistant" not in prompt


# -- lost clients and empty replies --------------------------------------------------------------------


@pytest.mark.parametrize(
    "engine",
    [
        FakeEngine("", "length"),
        FakeEngine("", "stop"),
        FakeEngine("", "abort"),
        FakeEngine("Ye", "abort"),
        FakeEngine(gone=True),
    ],
    ids=["one-token", "stop-string", "gone-at-once", "gone-in-mid-stream", "cancelled"],
)
def test_the_persons_words_are_stored_whatever_becomes_of_the_reply(system, talk, engine):
    plan, _ = talk("My passport number begins with 7.", engine)
    assert plan.written
    assert stored(system)[0].text == "My passport number begins with 7."


def test_an_end_that_is_told_twice_is_one_turn(system, talk):
    class FakeTwice(FakeEngine):
        async def deliver(self, chat, reply, finish):
            await finish("r-twice", "Hello.", "stop")
            await finish("r-twice", "Hello.", "abort")
            return reply

    talk("Good morning.", FakeTwice())
    assert [item.text for item in stored(system)] == ["Good morning.", "Hello."]


@pytest.mark.parametrize(
    ("fields", "who", "reason"),
    [
        ({"store": False}, ALICE, "store"),
        ({"options": {"write": False}}, ALICE, "memory.write"),
        ({}, principal(""), "no person"),
        ({}, principal("alice", role=Role.READER), "reader"),
        ({"messages": [{"role": "assistant", "content": "Hi"}]}, ALICE, "no user message"),
        ({"messages": [{"role": "user", "content": ""}]}, ALICE, "no user message"),
    ],
)
def test_a_turn_that_is_not_stored_says_why(system, talk, fields, who, reason):
    plan, _ = talk("Hello.", who=who, **fields)
    assert not plan.written
    assert reason in plan.not_written
    assert stored(system) == []


def test_a_mark_survives_the_vault_and_changes_no_other_items_id(system):
    plain = Item(type=ItemType.EPISODE, text="One.", speaker="assistant")
    marked = plain.model_copy(update={"mark": Mark.CUT})
    made = [
        system.create(ALICE, [NewCube(payload=ExplicitPayload(content=[item]))])[0]
        for item in (plain, marked)
    ]
    read = [system.vault.get(ALICE, cube.meta.id).items[0] for cube in made]
    assert [item.mark for item in read] == [None, Mark.CUT]


def test_a_conversation_that_a_request_names_stands_in_the_prompt_without_marked_replies(
    system, talk
):
    talk("Tell me of my dog Argo.", FakeEngine("Argo is a cat, and", "length"))
    talk("Argo is a poodle.", FakeEngine("A poodle, then."))
    _, prompt = talk("Hello!", options={"cubes": ["chat-s#1"], "retrieve": False}, session="new")
    assert "Argo is a poodle." in prompt
    assert "A poodle, then." in prompt
    assert "Argo is a cat, and" not in prompt


def test_a_reply_with_the_head_of_the_prompt_alone_was_given_with_memory(system, talk):
    talk("Argo is a poodle.")
    head = {"cubes": ["chat-s#1"], "retrieve": False}
    talk("Hello!", FakeEngine("Hello, owner of Argo."), options=head, session="new")
    assert [item.mark for item in stored(system)] == [None] * 4
