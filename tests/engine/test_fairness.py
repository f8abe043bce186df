"""Limits and fairness on the real engine: order, tokens, quotas, and clients that go away."""

from __future__ import annotations

import json
import threading

import pytest

from memos_vllm.config.load import load_config
from memos_vllm.governance.principal import Role
from memos_vllm.system import MemorySystem
from tests.engine.harness import MODEL, Server, chat, events, wait_for

RUNNING = 4
TENANTS = {
    "counted": {"tokens_per_minute": 100_000},
    "single": {"concurrent_requests": 1},
    "full": {"items": 0},
}
FLAGS = ("--scheduling-policy", "priority", "--max-num-seqs", str(RUNNING))


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """(server, keys by tenant)"""
    folder = tmp_path_factory.mktemp("fairness")
    home = folder / "home"
    system = MemorySystem(load_config(overrides={"home": str(home)})).open()
    names = ("acme", "globex", *TENANTS)
    keys = {name: system.keys.create(name, Role.WRITER)[1] for name in names}
    system.close()
    environment = {
        "MEMOS__GOVERNANCE__FAIRNESS__RUNNING": str(RUNNING),
        "MEMOS__GOVERNANCE__LIMITS__TENANTS": json.dumps(TENANTS),
    }
    with Server(folder, home=home, environment=environment, flags=FLAGS).running() as running:
        yield running, keys


def body(text, **extra):
    messages = [{"role": "user", "content": text}]
    return {"model": MODEL, "messages": messages, "temperature": 0, "stream": True, **extra}


class Crowd:
    """Streams of one tenant; notes the order in which all streams begin and end."""

    def __init__(self, server, key):
        self._server, self._key = server, key
        self.log: list[tuple[str, int]] = []
        self._threads: list[threading.Thread] = []

    def start(self, count, tokens):
        for number in range(count):
            thread = threading.Thread(target=self.stream, args=(self._key, number, tokens))
            self._threads.append(thread)
            thread.start()

    def stream(self, key, number, tokens, **extra):
        asked = body(f"Count from {number}.", max_tokens=tokens, ignore_eos=True, **extra)
        with (
            self._server.http(key) as http,
            http.stream("POST", "/v1/chat/completions", json=asked) as reply,
        ):
            assert reply.status_code == 200, reply.read()
            for line in reply.iter_lines():
                if line.startswith("data: {") and ("begun", number) not in self.log:
                    self.log.append(("begun", number))
        self.log.append(("ended", number))

    def count(self, what):
        return sum(name == what for name, _ in self.log)

    def join(self):
        for thread in self._threads:
            thread.join(300)


def test_one_request_does_not_wait_behind_thirty_streams_of_another_tenant(shared):
    """Attack: thirty streams of one tenant, and another's request did not finish in a minute."""
    server, keys = shared
    crowd = Crowd(server, keys["acme"])
    crowd.start(30, tokens=48)
    wait_for(lambda: crowd.count("begun") >= RUNNING, "the streams")
    before = len(crowd.log)
    crowd.stream(keys["globex"], 99, tokens=8)
    since = crowd.log[before:]
    begun_first = [
        number for what, number in since[: since.index(("begun", 99))] if what == "begun"
    ]
    still_waiting = 30 - sum(what == "begun" and number != 99 for what, number in crowd.log)
    crowd.join()
    # As many as were let in before it, at most; the waiting ones come behind it.
    assert len(begun_first) <= RUNNING
    assert still_waiting >= 30 - 3 * RUNNING
    assert crowd.count("ended") == 31


def test_a_clients_own_priority_does_not_overtake_another_tenant(shared):
    server, keys = shared
    crowd = Crowd(server, keys["acme"])
    crowd.start(16, tokens=32)
    wait_for(lambda: crowd.count("begun") >= RUNNING, "the streams")
    greedy = threading.Thread(
        target=crowd.stream, args=(keys["acme"], 98, 8), kwargs={"priority": -(2**60)}
    )
    greedy.start()
    crowd.stream(keys["globex"], 99, tokens=8)
    greedy.join(300)
    crowd.join()
    assert crowd.log.index(("begun", 99)) < crowd.log.index(("begun", 98))


@pytest.mark.parametrize("extra", [{}, {"n": 2, "temperature": 1.0}, {"stream": True}])
def test_a_request_settles_to_the_tokens_that_the_engine_counted(shared, extra):
    server, keys = shared

    def left():
        with server.http(keys["counted"]) as http:
            asked = body("Hi", stream=False, max_tokens=1)
            reply = http.post("/v1/chat/completions", json=asked)
            used = reply.json()["usage"]["total_tokens"]
            # The header was written while this request held its own reservation.
            return int(reply.headers["x-ratelimit-remaining-tokens"]), used

    before, used_by_probe = left()
    options = {"stream_options": {"include_usage": True}} if extra.get("stream") else {}
    asked = {**body("Tell a story.", max_tokens=20, ignore_eos=True, stream=False), **extra}
    with server.http(keys["counted"]) as http:
        reply = http.post("/v1/chat/completions", json=asked | options)
        if extra.get("stream"):
            chunks = [json.loads(each) for each in events(reply) if each != "[DONE]"]
            usage = next(c["usage"] for c in reversed(chunks) if c.get("usage"))
        else:
            usage = reply.json()["usage"]
    assert usage["completion_tokens"] == 20 * extra.get("n", 1)
    after, _ = left()
    spent = before - after
    # A minute that passes meanwhile makes the older part count less, never more.
    expected = usage["total_tokens"] + used_by_probe
    assert spent <= expected
    assert spent >= 0.5 * expected or after > before - expected


def test_a_client_that_goes_away_frees_its_place(shared):
    server, keys = shared
    with server.http(keys["single"]) as http:
        asked = body("Count.", max_tokens=1000, ignore_eos=True)
        with http.stream("POST", "/v1/chat/completions", json=asked) as reply:
            assert reply.status_code == 200
            second = http.post("/v1/chat/completions", json=body("Hi", max_tokens=1))
            assert second.status_code == 429
            assert second.json()["error"]["code"] == "rate_limit_exceeded"
            assert second.headers["retry-after"] == "1"
            assert http.get("/v1/memory/cubes").status_code == 429
        wait_for(lambda: http.get("/v1/memory/cubes").status_code == 200, "the freed place", 30)


def test_a_full_quota_stops_remembering_and_not_the_chat(shared):
    server, keys = shared
    reply = chat(server, keys["full"], "ann", "I live in Oslo.")
    assert reply.choices[0].message.content is not None
    assert reply.memory["written"] is False
    assert "quota of items is full" in reply.memory["not_written"]
    with server.http(keys["full"], "ann") as http:
        asked = body("I live in Oslo.", max_tokens=4, user="ann")
        streamed = events(http.post("/v1/chat/completions", json=asked))
        memory = next(json.loads(e)["memory"] for e in reversed(streamed) if '"memory"' in e)
        assert "quota of items is full" in memory["not_written"]
        text = {"type": "explicit", "format": "text", "content": "x"}
        refused = http.post("/v1/memory/cubes", json={"payload": text})
    assert refused.status_code == 429
    assert refused.json()["error"]["type"] == "insufficient_quota"
    assert refused.headers["x-should-retry"] == "false"
