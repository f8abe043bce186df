"""`GET /ready` without an engine, and the times of a start."""

from __future__ import annotations

from fastapi.testclient import TestClient

from memos_vllm.api.app import create_app
from memos_vllm.engine.warm import StartTimes
from memos_vllm.governance.principal import Role


def test_a_server_is_not_ready_before_its_first_chat_and_says_so_without_a_key(system):
    system.keys.create("acme", Role.WRITER)
    app = create_app(system)
    client = TestClient(app)
    first = client.get("/ready")
    assert (first.status_code, first.json()) == (503, {"ready": False, "waits_for": "the engine"})
    app.state.memos_ready.waits_for = None
    then = client.get("/ready")
    assert (then.status_code, then.json()) == (200, {"ready": True, "waits_for": None})
    assert client.post("/ready").status_code == 401


def test_the_times_of_a_start_are_told_by_part():
    times = StartTimes()
    for _ in range(2):
        with times.part("vault"):
            pass
    assert str(times) == "0.0 s in all, vault 0.0 s"
