"""A server is ready when it has answered a chat of its own, which leaves nothing behind."""

from __future__ import annotations

import httpx

from memos_vllm.config.load import load_config
from memos_vllm.governance.principal import Role
from memos_vllm.system import MemorySystem
from tests.engine.harness import Server, wait_for


def test_the_first_chat_is_the_servers_own_and_is_not_remembered(tmp_path):
    home = tmp_path / "home"
    system = MemorySystem(load_config(overrides={"home": str(home)})).open()
    key = system.keys.create("operator", Role.ADMIN)[1]
    system.close()
    server = Server(tmp_path, home=home, environment={"MEMOS__SERVE__WARM_UP": "true"})
    with server.running() as running:

        def ready() -> bool:
            reply = httpx.get(f"{running.url}/ready")
            assert reply.status_code == (200 if reply.json()["ready"] else 503)
            return bool(reply.json()["ready"])

        wait_for(ready, "the first chat")
        assert "ready; the first chat took" in running.log()
        assert "it took" in running.log()
        assert "first chat fails" not in running.log()
        with running.http(key) as http:
            metrics = http.get("/metrics").text
    chats = [line for line in metrics.splitlines() if line.startswith("memos_chats_total{")]
    assert sum(float(line.rsplit(" ", 1)[1]) for line in chats) == 1
    system = MemorySystem(load_config(overrides={"home": str(home)})).open()
    try:
        with system.database.read() as session:
            for table in ("cubes", "items", "pending_turns", "jobs"):
                found = session.connection().exec_driver_sql(f"SELECT count(*) FROM {table}")
                assert found.scalar() == 0, table
    finally:
        system.close()
