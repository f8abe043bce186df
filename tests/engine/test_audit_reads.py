"""A chat's read of memory is recorded although the server is killed at its first token."""

from __future__ import annotations

import json
import signal

from tests.engine.harness import MODEL, Server, wait_for
from tests.engine.kv import make

PERSON = "rosa"


def reads(server: Server) -> list[dict]:
    with server.http(None) as http:
        page = http.get("/v1/memory/audit", params={"limit": 1000}).raise_for_status().json()
    mine = [each for each in page["records"] if each["action"] == "memory.read"]
    return [each for each in mine if each["person"] == PERSON]


def test_a_kill_at_the_first_token_loses_no_read(restartable: Server):
    cube = make(restartable, "garden", "The garden opens at nine and closes at six.")
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "When does the garden open?"}],
        "user": PERSON,
        "stream": True,
        "max_tokens": 400,
        "ignore_eos": True,
        "memory": {"cubes": [cube], "write": False},
    }
    headers = {"X-Request-Id": "one-read"}
    with (
        restartable.http(None) as http,
        http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as reply,
    ):
        first = next(line for line in reply.iter_lines() if line.startswith("data: {"))
        assert json.loads(first[6:])["id"] == "chatcmpl-one-read"
        restartable.kill(signal.SIGKILL)
    restartable.start()
    (record,) = wait_for(lambda: reads(restartable), "the record of the read")
    assert record["request_id"] == "chatcmpl-one-read"
    assert cube in [each.partition("@")[0] for each in record["detail"]["cubes"]]
    with restartable.http(None) as http:
        page = http.get("/v1/memory/audit", params={"verify": True}).json()
    assert page["intact"], page["problems"]
