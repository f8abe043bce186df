"""The deadline of memory: a step that is late costs its own part; the prompt gets what was found in time."""

from __future__ import annotations

import time
from unittest import mock

import pytest

from memos_vllm.cube.model import ItemType, Mark, Placement
from memos_vllm.errors import IndexUnavailable, Unavailable, VaultUnavailable
from memos_vllm.learning.background import BackgroundTasks
from memos_vllm.learning.remember import Rememberer
from memos_vllm.pipeline import Pipeline
from memos_vllm.plaintext.search.vector_store import VectorIndex
from memos_vllm.system import MemorySystem
from tests.conftest import FakeQueue, make_config
from tests.unit.test_pipeline import ALICE, ask, know

DEADLINE = 3.0
LATE = 6.0


@pytest.fixture
def system(tmp_path):
    config = make_config(
        tmp_path, prompt={"deadline_seconds": DEADLINE}, retrieval={"vector_cache_bytes": 0}
    )
    opened = MemorySystem(config).open()
    yield opened
    opened.close()


@pytest.fixture
def pipeline(system):
    know(system, "Alice likes short answers.", placement=Placement.STABLE)
    know(system, "The boat is blue.")
    made = Pipeline(
        system, Rememberer(system, FakeQueue(system.jobs, system.config.jobs)), BackgroundTasks()
    )
    ask(made, "Warm?", store=False)
    return made


def late(original):
    def slow(*arguments, **named):
        time.sleep(LATE)
        return original(*arguments, **named)

    return slow


def asked(pipeline, **fields):
    plan, messages = ask(pipeline, "Which colour has the boat?", store=False, **fields)
    return plan, messages[-1]["content"] if messages else ""


def test_an_embedder_that_is_late_means_a_search_by_words(system, pipeline):
    with mock.patch.object(system.embedder, "_encode", late(system.embedder._encode)):
        plan, prompt = asked(pipeline)
    assert plan.degraded[0] == "timeout:embed"  # a busy machine may be late with the steps, too
    assert "timeout:words" not in plan.degraded
    assert "The boat is blue." in prompt
    assert "Alice likes short answers." in prompt
    assert max(plan.steps_ms["embed"], plan.steps_ms["search"]) < DEADLINE * 1000


def test_an_index_that_is_late_means_a_search_by_words(system, pipeline):
    with mock.patch.object(VectorIndex, "query", late(VectorIndex.query)):
        plan, prompt = asked(pipeline)
    assert plan.degraded[0] == "timeout:search"
    assert "timeout:words" not in plan.degraded
    assert "The boat is blue." in prompt


def test_a_search_that_is_late_leaves_the_stable_cubes(system, pipeline):
    operator = system.operator
    with mock.patch.object(operator, "search", late(operator.search)):
        plan, prompt = asked(pipeline)
    assert plan.degraded == ["timeout:search", "timeout:words"]
    assert "Alice likes short answers." in prompt
    assert "The boat is blue." not in prompt


def test_steps_that_are_late_leave_the_search_results(system, pipeline):
    pipeline._steps = [("slow", late(lambda recall: recall))]
    plan, prompt = asked(pipeline)
    assert plan.degraded == ["timeout:steps"]
    assert "The boat is blue." in prompt


@pytest.mark.parametrize("error", [VaultUnavailable("away"), IndexUnavailable("away")])
def test_a_search_that_fails_leaves_the_stable_cubes(system, pipeline, error):
    with mock.patch.object(system.operator, "search", side_effect=error):
        plan, prompt = asked(pipeline)
    assert plan.degraded == [error.reason]
    assert "Alice likes short answers." in prompt


def test_memory_that_is_required_and_late_is_a_503(system, pipeline):
    with (
        mock.patch.object(system.embedder, "_encode", late(system.embedder._encode)),
        pytest.raises(Unavailable, match="embed"),
    ):
        asked(pipeline, options={"required": True})


def test_a_reply_of_a_degraded_request_is_no_evidence(system, pipeline):
    with mock.patch.object(system.embedder, "_encode", late(system.embedder._encode)):
        ask(pipeline, "Which colour has the ship?")
    (turn,) = system.turns.waiting()
    Rememberer(system, FakeQueue(system.jobs, system.config.jobs)).remember(turn)
    items = [i for o in system.views.owners(ALICE) for c in system.views.owner_cubes(o.owner)
             for i in c.items if i.source == "r-1:reply"]  # fmt: skip
    assert [item.is_evidence for item in items] == [False]
    recalled = system.views.recall(ALICE, [items[0].id])[items[0].id].item
    assert (recalled.mark, recalled.type) == (Mark.DEGRADED, ItemType.EPISODE)
