"""Chat while a part of memory is down: Chroma, or the vault's database."""

from __future__ import annotations

import os
import uuid

import psycopg
import pytest

from memos_vllm.config.load import load_config
from memos_vllm.governance.principal import Role
from memos_vllm.system import MemorySystem
from tests.engine.chroma import Chroma
from tests.engine.harness import MODEL, Server, chat, wait_for

POSTGRES = os.environ.get("MEMOS_TEST_POSTGRES", "postgresql://127.0.0.1:5432/postgres")


@pytest.fixture(scope="module")
def postgres():
    """A new database on the local Postgres."""
    name = f"memos_test_{uuid.uuid4().hex[:12]}"
    try:
        admin = psycopg.connect(POSTGRES, autocommit=True, connect_timeout=3)
    except psycopg.OperationalError as error:
        pytest.skip(f"no Postgres at {POSTGRES} (MEMOS_TEST_POSTGRES): {error}")
    admin.execute(f'CREATE DATABASE "{name}"')
    yield admin, name
    admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    admin.close()


@pytest.fixture(scope="module")
def scaled(tmp_path_factory, postgres):
    """(server, key, chroma) of a server on Postgres and a Chroma server."""
    admin, name = postgres
    folder = tmp_path_factory.mktemp("scaled")
    chroma = Chroma(folder / "chroma")
    chroma.start()
    url = psycopg.conninfo.conninfo_to_dict(admin.info.dsn)
    user, host, port = url.get("user", admin.info.user), admin.info.host, admin.info.port
    environment = {
        "MEMOS__DATABASE__URL": f"postgresql+psycopg://{user}@{host}:{port}/{name}",
        "MEMOS__DATABASE__BUSY_TIMEOUT_SECONDS": "2",
        "MEMOS__CHROMA__MODE": "http",
        "MEMOS__CHROMA__PORT": str(chroma.port),
        "MEMOS__GOVERNANCE__KEY_STALE_SECONDS": "300",
    }
    overrides = {
        "home": str(folder / "home"),
        "database": {"url": environment["MEMOS__DATABASE__URL"]},
    }
    system = MemorySystem(load_config(overrides=overrides)).open()
    _, key = system.keys.create("acme", Role.WRITER)
    _, operator = system.keys.create("operator", Role.ADMIN)
    system.close()
    server = Server(folder, home=folder / "home", environment=environment)
    try:
        with server.running():
            server.operator_key = operator
            yield server, key, chroma
    finally:
        chroma.kill()


@pytest.fixture
def fact(scaled):
    server, key, _ = scaled
    person = f"person-{uuid.uuid4().hex[:8]}"
    with server.http(key, person) as http:
        http.post(
            "/v1/memory/cubes",
            json={
                "payload": {
                    "type": "explicit",
                    "content": [{"type": "fact", "text": "The parrot is called Polly."}],
                }
            },
        ).raise_for_status()
    return person


def raw(server, key, person, **memory):
    with server.http(key) as http:
        return http.post(
            "/v1/chat/completions",
            json={
                "model": MODEL,
                "user": person,
                "max_tokens": 2,
                "memory": {"write": False, **memory},
                "messages": [{"role": "user", "content": "What is the parrot called?"}],
            },
        )


def test_retrieval_works_on_postgres_and_a_chroma_server(scaled, fact):
    server, key, _ = scaled
    reply = chat(server, key, fact, "What is the parrot called?", memory={"write": False})
    assert reply.memory["cubes"]
    assert reply.memory["degraded"] == []
    signals = server.http(key, fact).post("/v1/memory/search", json={"query": "parrot"}).json()
    assert "dense_turn" in signals["results"][0]["signals"]


def test_without_chroma_keyword_search_answers_with_a_header_and_a_metric(scaled, fact):
    server, key, chroma = scaled
    chroma.kill()
    try:
        reply = raw(server, key, fact)
        assert reply.status_code == 200
        assert reply.headers["x-memos-degraded"] == "index"
        assert reply.json()["memory"]["cubes"], "keyword search still finds it"
        assert "dense search left out" in server.log()
        metrics = server.http(server.operator_key).get("/metrics").text
        assert 'memos_degraded_total{reason="index"}' in metrics
        required = raw(server, key, fact, required=True)
        assert required.status_code == 503
        assert required.json()["error"]["code"] == "memory_unavailable"
        with server.http(key, fact) as http:
            made = http.post(
                "/v1/memory/cubes",
                json={"payload": {"type": "explicit", "content": "The parrot was born in Lima."}},
            )
            assert made.status_code == 201, "the vault is the truth: a write does not need Chroma"
    finally:
        chroma.start()

    # The outbox brings the index up to date by itself.
    def dense() -> bool:
        with server.http(key, fact) as http:
            found = http.post("/v1/memory/search", json={"query": "Lima"}).json()["results"]
        return any(
            "dense_turn" in hit["signals"] and "Lima" in hit["item"]["text"] for hit in found
        )

    wait_for(dense, "indexing after Chroma's return", 60)


def test_without_the_vaults_database_a_chat_has_no_memory_and_a_header(scaled, fact, postgres):
    server, key, _ = scaled
    admin, name = postgres
    assert raw(server, key, fact).status_code == 200  # now the server caches the key
    admin.execute(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS false')
    admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,)
    )
    try:
        reply = raw(server, key, fact)
        assert reply.status_code == 200
        assert reply.headers["x-memos-degraded"] == "vault"
        assert reply.json()["choices"][0]["message"]["content"]
        assert raw(server, key, fact, required=True).status_code == 503
        with server.http(key, fact) as http:
            assert http.get("/v1/memory/cubes").status_code == 503
    finally:
        admin.execute(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS true')
    wait_for(lambda: "x-memos-degraded" not in raw(server, key, fact).headers, "the vault's return")
