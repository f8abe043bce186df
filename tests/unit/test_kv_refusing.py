"""The worker for a model whose KV cannot be carried: loads are computed, saves are over at once."""

from __future__ import annotations

import pytest

pytest.importorskip("vllm", reason="the orders are vLLM's: make venv")

from memos_vllm.engine.kv.messages import Load, Save, StepOrders
from memos_vllm.engine.kv.refusing import RefusingWorker
from memos_vllm.engine.kv.states import MISS, UNDECIDED, Finished, Match, When, Worker
from memos_vllm.engine.kv.worker_side import WorkerSide


def test_every_load_is_reported_as_failed_and_every_save_as_over():
    worker: Worker = RefusingWorker(4)
    blocks = tuple(range(10, 20))
    loads = [
        Load("a", blocks, 6, 16, (), When.BETWEEN_STEPS),
        Load("b", (7,), 0, 4, (), When.IN_STEP),
    ]
    orders = StepOrders(loads=loads, saves=[Save("c", blocks, ())])
    worker.step_begins(orders)
    worker.begin(orders)
    worker.wait_for_layer("0")
    worker.step_ends()
    worker.answered()
    assert worker.take_bad_blocks() == {11, 12, 13, 7}
    assert worker.take_finished() == Finished(frozenset({"c"}), frozenset({"a"}))
    assert worker.take_finished().for_vllm() == (None, None)
    assert worker.take_counts() == {}
    worker.close()


@pytest.mark.parametrize("kind", [RefusingWorker, WorkerSide])
def test_both_workers_have_every_call_of_the_protocol(kind):
    calls = {name for name in vars(Worker) if not name.startswith("_")}
    assert len(calls) == 9
    assert all(callable(getattr(kind, name)) for name in calls)


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        (MISS, (0, False)),
        (UNDECIDED, (None, False)),
        (Match(7, When.IN_STEP), (7, False)),
        (Match(7, When.BETWEEN_STEPS), (7, True)),
    ],
)
def test_a_match_becomes_the_tuple_of_vllm(match, expected):
    assert match.for_vllm() == expected
