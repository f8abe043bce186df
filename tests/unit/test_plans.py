"""The store of plans: found by their person as soon as the reply has ended."""

from __future__ import annotations

import threading

import pytest

from memos_vllm.errors import NotFound
from memos_vllm.vault import plans as module
from memos_vllm.vault.plans import PlanStore
from tests.conftest import principal

ALICE, BOB = principal("alice"), principal("bob")
PLAN = {"entries": [], "outcome": "plain"}


def test_a_plan_that_is_being_stored_is_waited_for_by_its_person_alone(system, monkeypatch):
    plans, goes_on = system.plans, threading.Event()
    store = PlanStore._put

    def slowly(self, *arguments):
        goes_on.wait(10)
        store(self, *arguments)

    monkeypatch.setattr(PlanStore, "_put", slowly)
    monkeypatch.setattr(module, "_PATIENCE_SECONDS", 30.0)
    plans.expect(ALICE, "r")
    storing = threading.Thread(target=plans.put, args=(ALICE, "r", PLAN))
    storing.start()
    with pytest.raises(NotFound):
        plans.get(BOB, "r")
    assert storing.is_alive(), "he did not wait: that Alice's request exists cannot be timed"
    threading.Timer(0.1, goes_on.set).start()
    assert plans.get(ALICE, "r") == PLAN
    storing.join()


def test_a_plan_that_fails_is_not_waited_for_again(system, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("broken")

    monkeypatch.setattr(PlanStore, "_put", broken)
    system.plans.expect(ALICE, "r")
    with pytest.raises(RuntimeError):
        system.plans.put(ALICE, "r", PLAN)
    assert system.plans._expected == {}
    with pytest.raises(NotFound):
        system.plans.get(ALICE, "r")


def test_two_requests_of_one_id_end_every_wait(system):
    for _ in range(2):
        system.plans.expect(ALICE, "r")
    expected = system.plans._expected[("acme", "alice", "r")]
    for _ in range(2):
        system.plans.put(ALICE, "r", PLAN)
    assert expected.is_set()
    assert system.plans._expected == {}
    assert system.plans.get(ALICE, "r") == PLAN
