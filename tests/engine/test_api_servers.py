"""Several API server processes in front of one engine: one memory, whichever answers."""

from __future__ import annotations

import dataclasses
import signal
import uuid
from collections.abc import Iterator

import httpx
import psutil
import pytest

from memos_vllm.config.load import load_config
from memos_vllm.governance.principal import Role
from memos_vllm.system import MemorySystem
from tests.engine.chroma import Chroma
from tests.engine.harness import Server, cached_tokens, chat, wait_for
from tests.engine.kv import RULES, ask, make

FACT = "My parrot is called Polly."
QUESTION = "What is my parrot called?"
TRIES = 8


@dataclasses.dataclass(frozen=True)
class Made:
    server: Server
    key: str
    operator: str


@pytest.fixture(scope="module")
def made(tmp_path_factory, postgres_url) -> Iterator[Made]:
    folder = tmp_path_factory.mktemp("api-servers")
    home, url, chroma = folder / "home", postgres_url(), Chroma(folder / "chroma")
    system = MemorySystem(
        load_config(overrides={"home": str(home), "database": {"url": url}})
    ).open()
    key, operator = (system.keys.create(each, Role.ADMIN)[1] for each in ("acme", "operator"))
    system.close()
    config = folder / "memos.yaml"
    config.write_text("{}\n")
    environment = {
        "MEMOS__DATABASE__URL": url,
        "MEMOS__CHROMA__MODE": "http",
        "MEMOS__CHROMA__PORT": str(chroma.port),
    }
    server = Server(
        folder, home=home, config=config, environment=environment, flags=("--api-server-count", "2")
    )
    chroma.start()
    try:
        with server.running() as running:
            yield Made(running, key, operator)
    finally:
        chroma.kill()


@pytest.fixture
def server(made) -> Server:
    return made.server


@pytest.fixture
def key(made) -> str:
    return made.key


def new_person() -> str:
    return f"person-{uuid.uuid4().hex[:8]}"


def answering(server: Server) -> int:
    """The process that answers a new connection."""
    with server.http() as http, http.stream("GET", "/health") as reply:
        _, port = reply.extensions["network_stream"].get_extra_info("client_addr")
        (found,) = [
            each.pid
            for each in psutil.net_connections("tcp")
            if each.raddr and each.raddr.port == port and each.laddr.port == server.port
        ]
        return found


def test_what_one_process_was_told_every_other_knows_at_the_next_request(server, key):
    for _ in range(TRIES):
        person = new_person()
        assert chat(server, key, person, FACT).memory["written"]
        reply = chat(server, key, person, QUESTION, memory={"write": False})
        assert reply.memory["degraded"] == []
        assert [cube for cube in reply.memory["cubes"] if cube["items"]], (
            "the fact is in the prompt"
        )
    assert len({answering(server) for _ in range(40)}) == 2


def test_kv_of_a_cube_and_an_erasure_are_of_both(server, key):
    person = new_person()
    text = "Diary. " + " ".join(RULES[:12])
    cube = make(server, "diary", text, key, as_person=person, person=person)
    ask(server, person, cube, key)
    assert all(cached_tokens(ask(server, person, cube, key)) > 200 for _ in range(TRIES))
    with server.http(key) as http:
        erased = http.delete(f"/v1/memory/people/{person}")
        assert erased.status_code in (200, 202), erased.text
        url = f"/v1/memory/erasures/{erased.json()['id']}"
        wait_for(lambda: http.get(url).json()["state"] == "done", "the erasure")
    again = make(server, "diary", text, key, as_person=person, person=person)
    for _ in range(TRIES):
        reply = httpx.get(
            f"{server.url}/v1/memory/cubes/{cube}",
            headers={"Authorization": f"Bearer {key}", "X-Memos-User": person},
        )
        assert reply.status_code == 404
    assert cached_tokens(ask(server, person, again, key)) == 0


def test_metrics_are_of_both(made, server, key):
    def chats() -> float:
        with server.http(made.operator) as http:
            text = http.get("/metrics").text
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in text.splitlines()
            if line.startswith("memos_chats_total{")
        )

    before = chats()
    for _ in range(TRIES):
        chat(server, key, new_person(), "Hello.")
    assert chats() == before + TRIES


def test_the_server_ends_whole_when_one_process_ends(server):
    children = psutil.Process(server.pid).children(recursive=True)
    psutil.Process(answering(server)).send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs([psutil.Process(server.pid), *children], timeout=60)
    assert [each for each in alive if each.status() != psutil.STATUS_ZOMBIE] == []
