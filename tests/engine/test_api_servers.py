"""Several API server processes in front of one engine: one memory, whichever answers."""

from __future__ import annotations

import dataclasses
import re
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


@pytest.fixture(scope="module")
def made(tmp_path_factory, postgres_url) -> Iterator[Made]:
    folder = tmp_path_factory.mktemp("api-servers")
    home, url, chroma = folder / "home", postgres_url(), Chroma(folder / "chroma")
    system = MemorySystem(
        load_config(overrides={"home": str(home), "database": {"url": url}})
    ).open()
    key = system.keys.create("acme", Role.ADMIN)[1]
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
            yield Made(running, key)
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


def answering(server: Server) -> set[str]:
    """API processes that answered chats."""
    line = re.compile(r"\(ApiServer_(\d) [^\n]*POST /v1/chat/completions HTTP")
    return set(line.findall(server.log()))


def test_what_one_process_was_told_every_other_knows_at_the_next_request(server, key):
    for _ in range(TRIES):
        person = new_person()
        assert chat(server, key, person, FACT).memory["written"]
        reply = chat(server, key, person, QUESTION, memory={"write": False})
        assert reply.memory["degraded"] == []
        assert [cube for cube in reply.memory["cubes"] if cube["items"]], (
            "the fact is in the prompt"
        )
    wait_for(lambda: len(answering(server)) == 2, "both processes answering")


def test_kv_of_a_cube_and_its_deletion_are_of_both(server, key):
    person = new_person()
    text = "Diary. " + " ".join(RULES[:12])
    cube = make(server, "diary", text, key, as_person=person, person=person)
    ask(server, person, cube, key)
    assert all(cached_tokens(ask(server, person, cube, key)) > 200 for _ in range(TRIES))
    with server.http(key, person) as http:
        assert http.delete(f"/v1/memory/cubes/{cube}").status_code == 200
    again = make(server, "diary", text, key, as_person=person, person=person)
    for _ in range(TRIES):
        reply = httpx.get(
            f"{server.url}/v1/memory/cubes/{cube}",
            headers={"Authorization": f"Bearer {key}", "X-Memos-User": person},
        )
        assert reply.status_code == 404
    assert cached_tokens(ask(server, person, again, key)) == 0


def test_metrics_are_of_both(server, key):
    def chats() -> float:
        with server.http(key) as http:
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
    (one, *_) = [each for each in children if "ApiServer" in each.name()]
    one.send_signal(signal.SIGKILL)
    wait_for(lambda: not any(map(psutil.pid_exists, [server.pid])), "the end", 60)
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []
