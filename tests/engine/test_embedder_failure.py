"""A broken embedder, through `serve.py` and without API keys: keyword search only."""

from __future__ import annotations

from tests.engine.harness import Server, chat, wait_for
from tests.engine.test_degraded import raw


def test_with_a_broken_embedder_keyword_search_answers(tmp_path):
    broken = tmp_path / "not-a-model"
    broken.mkdir()
    config = tmp_path / "memos.yaml"
    config.write_text("remember: {items_per_cube: 32}\n")
    server = Server(
        tmp_path,
        home=tmp_path / "home",
        environment={"MEMOS__EMBEDDER__MODEL": str(broken)},
        config=config,
    )
    with server.running():
        assert "serving one tenant" in server.log()
        chat(server, "none", "alice", "My bicycle is green.", session_id="bike")
        found = wait_for(
            lambda: chat(
                server, "none", "alice", "Which colour has my bicycle?", memory={"write": False}
            ).memory["cubes"],
            "the turn becoming memory",
        )
        assert found[0]["name"] == "chat-bike#1"
        reply = raw(server, "none", "alice")
        assert reply.headers["x-memos-degraded"] == "embedder"
        assert "embedding model" in server.log()
        with server.http() as http:
            assert (
                http.get("/metrics").status_code == 200
            )  # without keys, a local caller is the operator
            foreign = http.get("/v1/models", headers={"Origin": "https://elsewhere.example"})
            assert foreign.status_code == 403
