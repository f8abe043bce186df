"""An order to forget in a chat: told in the body and in the last chunk, and taken back over HTTP."""

from __future__ import annotations

import json

from tests.engine.harness import MODEL, chat, events, wait_for
from tests.engine.test_remembers import items_of


def test_the_body_and_the_last_chunk_tell_what_was_forgotten_and_undo_brings_it_back(server, keys):
    assert (
        chat(server, keys.acme, "fay", "I live in Lisbon.", session_id="a").memory["forgot"] is None
    )
    http = server.http(keys.acme, "fay")
    wait_for(lambda: "I live in Lisbon." in items_of(http), "the turn becoming memory")
    reply = chat(server, keys.acme, "fay", "Forget that I live in Lisbon.", session_id="b")
    forgot = reply.memory["forgot"]
    assert forgot["done"]
    assert forgot["count"] >= 2
    assert "Lisbon" not in json.dumps(forgot)
    assert not any("Lisbon" in text for text in items_of(http))
    path = f"/v1/memory/explain/{reply.id}"
    plan = wait_for(lambda: (r := http.get(path)).status_code == 200 and r.json(), "the plan")
    assert plan["forgot"]["undo"] == forgot["undo"]
    http.post("/v1/memory/feedback", json={"undo": forgot["undo"]}).raise_for_status()
    assert "I live in Lisbon." in items_of(http)
    body = {
        "model": MODEL,
        "user": "fay",
        "stream": True,
        "max_tokens": 6,
        "messages": [{"role": "user", "content": "Forget everything you know about me."}],
    }
    stream = server.http(keys.acme).post("/v1/chat/completions", json=body)
    last = json.loads(events(stream.raise_for_status())[-2])
    assert last["memory"]["forgot"]["all"]
    assert items_of(http) == []


def test_a_wrong_time_zone_is_a_400_in_openais_envelope(server, keys):
    body = {"model": MODEL, "user": "fay", "messages": [{"role": "user", "content": "Hi"}]}
    http = server.http(keys.acme)
    for wrong, headers in (
        ({"memory": {"timezone": "Mars"}}, {}),
        ({}, {"X-Memos-Timezone": "Mars"}),
    ):
        reply = http.post("/v1/chat/completions", json={**body, **wrong}, headers=headers)
        assert reply.status_code == 400
        assert "Mars" in reply.json()["error"]["message"]
