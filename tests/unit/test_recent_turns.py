"""A conversation that begins at once knows what was said a moment ago, on any replica."""

from __future__ import annotations

import threading
import time

import pytest
import sqlalchemy as sa

from memos_vllm.cube.ids import now_us
from memos_vllm.errors import Unavailable
from memos_vllm.learning.queue import JobQueue
from memos_vllm.learning.remember import Rememberer
from memos_vllm.pipeline import Pipeline
from memos_vllm.system import MemorySystem
from memos_vllm.vault.tables import PendingTurnRow
from tests.conftest import FakeQueue, make_config, principal
from tests.unit.test_pipeline import ALICE, ask, know, make_pipeline

SAID = "My boat is called Albatross."
ASKED = "What is my boat called?"
LATE = "timeout:recent"


@pytest.fixture
def told(system: MemorySystem) -> Pipeline:
    """A pipeline to which Alice has said something that no worker has made memory."""
    pipeline = make_pipeline(system)
    know(system, "Alice likes tea.")
    ask(pipeline, SAID)
    assert len(system.turns.waiting_of(ALICE)) == 1
    return pipeline


def test_a_new_conversation_waits_for_the_turn_before_it(told: Pipeline, system: MemorySystem):
    rememberer = Rememberer(system, FakeQueue(system.jobs, system.config.jobs))
    (turn,) = system.turns.waiting_of(ALICE)
    worker = threading.Timer(0.15, rememberer.remember, [turn])
    worker.start()
    plan, messages = ask(told, ASKED)
    worker.join()
    assert "Albatross" in messages[0]["content"]
    assert plan.degraded == []
    assert plan.steps_ms["recent"] > 100


def test_the_wait_ends_and_the_reply_says_so(told: Pipeline, system: MemorySystem):
    started = time.monotonic()
    plan, messages = ask(told, "What does Alice like?")
    assert time.monotonic() - started < system.config.prompt.deadline_seconds
    assert plan.degraded == [LATE]
    assert "tea" in messages[0]["content"], "the rest of memory is there"
    with pytest.raises(Unavailable):
        ask(told, ASKED, options={"required": True})


def test_a_conversation_does_not_wait_for_its_own_turns(told: Pipeline, system: MemorySystem):
    plan, _ = ask(told, SAID)  # the same words: they are in the prompt already
    assert plan.degraded == []


def test_a_request_does_not_wait_for_turns_that_end_after_its_beginning(
    told: Pipeline, system: MemorySystem
):
    """As of an agent whose requests for one person run side by side."""
    rememberer = Rememberer(system, FakeQueue(system.jobs, system.config.jobs))
    (turn,) = system.turns.waiting_of(ALICE)

    def one_ends_while_another_begins() -> None:
        system.turns.add(ALICE, {"user": "Later words.", "reply": "", "at_us": now_us()})
        rememberer.remember(turn)

    worker = threading.Timer(0.1, one_ends_while_another_begins)
    worker.start()
    plan, messages = ask(told, ASKED)
    worker.join()
    assert "Albatross" in messages[0]["content"]
    assert plan.degraded == []


def test_no_one_waits_for_another_person_or_for_what_is_stuck(told: Pipeline, system: MemorySystem):
    plan, _ = ask(told, ASKED, who=principal("bob"))
    assert plan.degraded == []
    with system.database.write() as session:
        session.execute(sa.update(PendingTurnRow).values(created_us=now_us() - 60_000_000))
    plan, _ = ask(told, ASKED)
    assert plan.degraded == []


def test_a_replica_takes_over_what_another_one_has_no_time_for(tmp_path, database_url):
    """The turn is stored by one process; the workers of the other one make it memory."""
    url = {"url": database_url}
    taker = MemorySystem(make_config(tmp_path / "one", database=url)).open()
    other = MemorySystem(make_config(tmp_path / "two", database=url)).open()
    jobs = JobQueue(other.jobs, other.config.jobs)
    rememberer = Rememberer(other, jobs)
    try:
        ask(make_pipeline(taker), SAID)
        rememberer.start()
        pipeline = Pipeline(other, rememberer, make_pipeline(other).tasks)
        _, messages = ask(pipeline, ASKED)
        assert "Albatross" in messages[0]["content"]
    finally:
        rememberer.stop()
        taker.close()
        other.close()
