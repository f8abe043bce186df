"""The path of a request over a real system; the engine alone is a stand-in."""

from __future__ import annotations

import asyncio
import time
from unittest import mock

import pytest
import sqlalchemy as sa

from memos_vllm.cube.model import ExplicitPayload, Item, NewCube, NewMeta, Placement
from memos_vllm.errors import NotFound, Unavailable, VaultUnavailable
from memos_vllm.learning.background import BackgroundTasks
from memos_vllm.learning.queue import JobQueue
from memos_vllm.learning.remember import Rememberer
from memos_vllm.options import MemoryOptions
from memos_vllm.pipeline import Pipeline
from memos_vllm.ports import Chat
from memos_vllm.scheduler.scheduler import Tokenizer
from memos_vllm.system import MemorySystem
from memos_vllm.vault.views import VaultViews
from tests.conftest import FakeQueue, make_config, principal

ALICE = principal("alice")


class FakeExchange:
    """An engine whose tokens are words; it refuses prompts longer than its context, as vLLM does."""

    request_id = "r-1"

    def __init__(self, context: int = 2000) -> None:
        self.tokenizer = Tokenizer(lambda text: len(text.split()), lambda text: text, context)
        self.measured = 0
        self.answered = []
        self.steps = []

    def tokenizer_for(self, chat):
        return self.tokenizer

    async def prompt_tokens(self, messages):
        self.measured += 1
        length = sum(len(message["content"].split()) for message in messages)
        return length if length <= self.tokenizer.context else None

    async def order_kv(self, chat, messages):
        self.steps.append(("order KV", chat.draft is not None))

    async def answer(self, chat, messages):
        self.steps.append(("answer", chat.draft is not None))
        self.answered.append(messages)
        return "reply"

    async def deliver(self, chat, reply, finish):
        await finish("r-1", reply)
        return reply


@pytest.fixture
def pipeline(system):
    return make_pipeline(system)


def make_pipeline(system, queue=None):
    rememberer = Rememberer(system, queue or FakeQueue(system.jobs, system.config.jobs))
    return Pipeline(system, rememberer, BackgroundTasks())


def know(system, *texts, who=ALICE, **meta):
    content = [Item(text=text) for text in texts]
    return system.create(
        who, [NewCube(meta=NewMeta(**meta), payload=ExplicitPayload(content=content))]
    )[0]


def ask(pipeline, question, exchange=None, who=ALICE, **fields):
    options = MemoryOptions(**fields.pop("options", {}))
    chat = Chat(who, options, [{"role": "user", "content": question}], "demo", **fields)
    exchange = exchange or FakeExchange()

    async def run():
        assert await pipeline.chat(chat, exchange) == "reply"
        await pipeline.tasks.drain()

    asyncio.run(run())
    return chat.plan, exchange.answered[0]


def test_a_principal_without_memory_costs_two_reads_and_changes_nothing(system, pipeline):
    with mock.patch.object(type(system.embedder), "embed_query", side_effect=AssertionError):
        plan, messages = ask(pipeline, "Anything?")
    assert messages is None
    assert plan.entries == []
    assert set(plan.steps_ms) == {"read", "recent", "stable"}


def test_what_fits_is_measured_once(system, pipeline):
    know(system, "The boat is blue.")
    exchange = FakeExchange()
    plan, messages = ask(pipeline, "Which colour has the boat?", exchange)
    assert "The boat is blue." in messages[0]["content"]
    assert exchange.measured == 1
    assert plan.injected_tokens > 0


@pytest.mark.parametrize("room", range(0, 60, 4))
@pytest.mark.slow
def test_memory_never_makes_a_prompt_too_long(system, pipeline, room):
    know(system, *(f"Boat {n} is blue and fast." for n in range(30)))
    question = "Which boat is blue? " + "x " * 100
    context = 104 + room
    plan, messages = ask(
        pipeline,
        question,
        FakeExchange(context),
        max_reply=0,
        options={"budget_tokens": 5000, "top_k": 30},
    )
    if messages is not None:
        assert len(messages[0]["content"].split()) <= context
    assert all(
        "left" in e.reason or "fit" in e.reason for e in plan.entries if e.decision == "rejected"
    )


def test_what_a_request_leaves_out_is_in_its_plan_alone_and_nothing_takes_its_place(
    system, pipeline
):
    cube = know(system, *(f"Boat {n} is blue and fast." for n in range(6)))
    head = know(system, "The harbour is closed.", placement=Placement.STABLE)
    plan, messages = ask(pipeline, "Which boat is blue?", options={"top_k": 3})
    first, second, third = [entry.item for entry in plan.used if entry.item]
    options = {"top_k": 3, "without": [second, head.meta.id]}
    less, lines = ask(pipeline, "Which boat is blue?", options=options)
    assert [entry.item for entry in less.used] == [first, third]
    reasons = {entry.item or entry.cube: entry.reason for entry in less.entries}
    assert "memory.without" in reasons[second]
    assert "memory.without" in reasons[head.meta.id]
    text = next(item.text for item in cube.items if item.id == second)
    assert text in messages[0]["content"]
    whole = {line for line in messages[0]["content"].split("\n") if not line.startswith("<")}
    kept = {line for line in lines[0]["content"].split("\n") if not line.startswith("<")}
    assert {line[2:] for line in whole - kept} == {text, "The harbour is closed."}
    assert kept < whole


def test_what_came_next_is_explained_without_being_used(system, pipeline):
    know(system, *(f"Boat {n} is blue and fast." for n in range(6)))
    plan, _ = ask(pipeline, "Which boat is blue?", options={"top_k": 2})
    reasons = [entry.reason for entry in plan.entries]
    assert reasons.count("matches the question") == 2
    assert reasons.count("not among the best 2 for the question") == 4
    assert [entry.decision for entry in plan.entries] == ["used"] * 2 + ["rejected"] * 4


def test_truncated_prompts_keep_memory_below_the_cut(system, pipeline):
    know(system, "The boat is blue.")
    _, messages = ask(pipeline, "Which colour has the boat?", prompt_limit=6)
    assert messages is None


def test_a_vault_that_is_away_means_no_memory_or_a_503(system, pipeline):
    with mock.patch.object(VaultViews, "owners", side_effect=VaultUnavailable("away")):
        plan, messages = ask(pipeline, "Hello?")
        assert (plan.degraded, messages) == (["vault"], None)
        with pytest.raises(Unavailable):
            ask(pipeline, "Hello?", options={"required": True})


def test_memory_that_is_too_slow_is_left_out(tmp_path):
    system = MemorySystem(make_config(tmp_path, prompt={"deadline_seconds": 0.1})).open()
    pipeline = make_pipeline(system, JobQueue(system.jobs, system.config.jobs))

    def slow(*_):
        time.sleep(0.5)
        return []

    with mock.patch.object(VaultViews, "owners", side_effect=slow):
        started = time.perf_counter()
        plan, _ = ask(pipeline, "Hello?", store=False)
    assert plan.degraded == ["timeout:stable"]
    assert time.perf_counter() - started < 3
    system.close()


def test_a_named_cube_that_is_not_there_is_an_error_even_without_any_memory(system, pipeline):
    with pytest.raises(NotFound):
        ask(pipeline, "Hello?", options={"cubes": ["absent"]})


def test_a_turn_waits_for_a_locked_vault_and_is_not_lost(tmp_path):
    config = make_config(
        tmp_path, database={"busy_timeout_seconds": 0.2}, remember={"durable_wait_seconds": 0.1}
    )
    system = MemorySystem(config).open()

    pipeline = make_pipeline(system)
    chat = Chat(ALICE, MemoryOptions(), [{"role": "user", "content": "Keep this."}], "demo")
    chat.plan.written = True

    async def run() -> float:
        with system.database.write() as session:
            session.execute(sa.text("DELETE FROM settings"))  # holds the write lock
            started = time.perf_counter()
            await pipeline.finish(chat, "r-1", "Kept.")
            waited = time.perf_counter() - started
            assert not chat.plan.written, "a kill would lose the turn now"
            assert "does not answer" in chat.plan.not_written
            await asyncio.sleep(0.5)
        await pipeline.tasks.drain()
        return waited

    assert asyncio.run(run()) < 1.0, "the conversation does not wait for it"
    (turn,) = system.turns.waiting()
    assert system.turns.get(turn).body["user"] == "Keep this."
    system.close()


def test_stable_cubes_stand_in_every_prompt_and_use_is_counted(system, pipeline):
    cube = know(system, "Alice likes short answers.", placement=Placement.STABLE)
    plan, messages = ask(pipeline, "Unrelated?")
    assert "Alice likes short answers." in messages[0]["content"]
    assert plan.used_cubes() == [cube.meta.id]
    assert system.vault.get(ALICE, cube.meta.id).meta.usage.reads == 1
    assert system.plans.get(ALICE, "r-1")["request_id"] == "r-1"


def test_kv_is_ordered_for_the_rendered_prompt_before_the_engine_answers(system, pipeline):
    know(system, "The boat is blue.")
    exchange = FakeExchange()
    ask(pipeline, "Which colour has the boat?", exchange)
    assert exchange.steps == [("order KV", True), ("answer", True)]
