"""The profile of a process: what burns is named, what waits is not."""

from __future__ import annotations

import json
import threading
import time

import pytest
from fastapi.testclient import TestClient

from memos_vllm import profiling
from memos_vllm.api.app import create_app
from memos_vllm.governance.principal import Role

pytestmark = pytest.mark.skipif(
    not profiling.is_possible(), reason="only Linux tells the processor time of a thread"
)


def burn(until: threading.Event) -> None:
    while not until.is_set():
        sum(range(2000))


def wait(until: threading.Event) -> None:
    until.wait()


@pytest.fixture
def busy():
    """A thread that computes, and one that waits."""
    end = threading.Event()
    threads = [
        threading.Thread(target=burn, args=(end,), name="burner_0"),
        threading.Thread(target=wait, args=(end,), name="waiter"),
    ]
    for thread in threads:
        thread.start()
    yield
    end.set()
    for thread in threads:
        thread.join()


def test_the_thread_that_computes_is_named_with_its_function(busy):
    found = profiling.profile(1.0)
    first = found.threads[0]
    assert first.name == "burner"
    assert first.cpu_seconds > 0.2
    assert first.functions[0].function.endswith("test_profiling.py: burn")
    waiting = [each.cpu_seconds for each in found.threads if each.name == "waiter"]
    assert sum(waiting) < 0.05
    assert found.cpu_seconds >= first.cpu_seconds * 0.9


def test_the_innermost_function_of_ours_is_named(busy):
    def own() -> None:
        for _ in range(200):
            profiling._times()
            json.dumps(list(range(1000)))

    thread = threading.Thread(target=own, name="ours")
    thread.start()
    found = profiling.profile(0.6)
    thread.join()
    (ours,) = [each for each in found.threads if each.name == "ours"]
    places = {(each.function, each.within) for each in ours.functions}
    assert any(function.startswith("memos_vllm/profiling.py") for function, _ in places)
    assert not any(
        function.startswith("/") and "site-packages" in function for function, _ in places
    )


@pytest.mark.parametrize(
    ("tenant", "role", "seconds", "status"),
    [
        ("operator", Role.ADMIN, "0.2", 200),
        ("operator", Role.WRITER, "0.2", 403),
        ("acme", Role.ADMIN, "0.2", 403),
        ("operator", Role.ADMIN, "0", 400),
        ("operator", Role.ADMIN, "1000", 400),
        ("operator", Role.ADMIN, "nan", 400),
    ],
)
def test_the_route_is_the_operators(system, tenant, role, seconds, status):
    _, key = system.keys.create(tenant, role)
    http = TestClient(create_app(system), headers={"Authorization": f"Bearer {key}"})
    reply = http.get("/v1/memory/profile", params={"seconds": seconds})
    assert reply.status_code == status, reply.text
    if status == 200:
        assert reply.json()["seconds"] >= 0.2


def test_one_profile_at_a_time(system):
    _, key = system.keys.create("operator", Role.ADMIN)
    http = TestClient(create_app(system), headers={"Authorization": f"Bearer {key}"})
    first = threading.Thread(target=http.get, args=("/v1/memory/profile?seconds=1",))
    first.start()
    time.sleep(0.4)
    assert http.get("/v1/memory/profile?seconds=0.1").status_code == 409
    first.join()
