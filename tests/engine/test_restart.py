"""A server whose processes are killed or hang: it ends whole, or is started again with its memory."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import psutil
import pytest

from memos_vllm.engine.liveness import EXIT_CODE
from tests.effort import long
from tests.engine.harness import Server, chat, wait_for
from tests.engine.processes import UnderWay, alive, named, tree

STALL_SECONDS = 12


@pytest.fixture
def plain(tmp_path) -> Iterator[Server]:
    with Server(tmp_path, home=tmp_path / "home", forked=False).running() as running:
        yield running


@pytest.fixture(scope="module")
def supervised(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`serve.py --restart`, with a short patience."""
    folder = tmp_path_factory.mktemp("supervised")
    config = folder / "memos.yaml"
    config.write_text(f"serve: {{restart: true, stall_seconds: {STALL_SECONDS}}}\n")
    with Server(folder, home=folder / "home", config=config).running() as running:
        with running.http(None, "kim") as http:
            body = {"payload": {"type": "explicit", "content": "Kim's boat is called Petrel."}}
            http.post("/v1/memory/cubes", json=body).raise_for_status()
        yield running


def served_again(server: Server, before: list[psutil.Process]) -> None:
    """Wait until the processes are gone and others serve, with the memory of before."""
    wait_for(lambda: not alive(before[1:]), f"the end of {before[1:]}", 40)
    assert alive(before[:1]), "the supervisor"
    server._wait()
    with server.http(None, "kim") as http:
        cubes = http.get("/v1/memory/cubes").raise_for_status().json()["cubes"]
        full = [http.get(f"/v1/memory/cubes/{cube['id']}").json() for cube in cubes]
    texts = [item["text"] for cube in full for item in cube["payload"]["content"]]
    assert any("Petrel" in text for text in texts)
    reply = chat(server, "none", "kim", "What is the name of my boat?", memory={"write": False})
    assert reply.memory["cubes"], "found again, after the restart"


def test_a_dead_engine_ends_its_requests_with_errors_and_its_server_whole_with_a_code(
    plain: Server,
):
    chat(plain, "none", "kim", "Hello.")
    processes, server = tree(plain), plain._process
    assert server is not None
    requests = UnderWay(plain)
    wait_for(lambda: "Running: 4 reqs" in plain.log() or time.sleep(1), "the start", 60)
    named(plain, "EngineCore").kill()
    for ended in requests.ended(15):
        assert ended.error, ended
        assert ended.status in (200, 500)
        assert ended.status == 500 or ended.body.endswith("data: [DONE]\n\n")
    assert server.wait(20) == EXIT_CODE
    wait_for(lambda: not alive(processes), f"the end of {processes}", 10)
    assert "the engine has ended: this server ends with exit code" in plain.log()


@pytest.mark.parametrize("victim", [pytest.param("Worker", marks=long), "api_server"])
def test_a_killed_process_ends_the_others_and_the_server_is_started_again(
    supervised: Server, victim: str
):
    before = tree(supervised)
    requests = UnderWay(supervised)
    time.sleep(3)
    named(supervised, victim).kill()
    assert all(ended.error or not ended.status for ended in requests.ended(20))
    served_again(supervised, before)
    assert "it is started again" in supervised.log()


@long
def test_an_engine_that_hangs_is_found_and_replaced(supervised: Server):
    before = tree(supervised)
    named(supervised, "EngineCore").send_signal(signal.SIGSTOP)
    served_again(supervised, before)
    assert "the engine has answered nothing for" in supervised.log()


def test_a_stopped_server_is_not_started_again_and_leaves_no_process(supervised: Server):
    processes, supervisor = tree(supervised), supervised._process
    assert supervisor is not None
    assert len(processes) > 4
    logged = len(supervised.log())
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(60) == 0
    wait_for(lambda: not alive(processes), f"the end of {processes}", 10)
    assert "this server ends with exit code" not in supervised.log()[logged:]


def test_no_process_outlives_a_supervisor_that_is_killed(supervised: Server):
    if supervised._process is None or supervised._process.poll() is not None:
        supervised.start()
    processes = tree(supervised)
    processes[0].kill()
    wait_for(lambda: not alive(processes), f"the end of {processes}", 15)
