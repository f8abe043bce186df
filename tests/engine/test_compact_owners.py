"""Compacts of people and tenants, beside requests of other forms and with an adapter."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from tests.adapters import config_of, content_of, tensors_of
from tests.engine.compacts import FACTS, OTHER, ask, compact, files, forms, said
from tests.engine.harness import Server
from tests.engine.kv import make

PRIVATE = f"{FACTS} It is private."


def new_private(server: Server, key: str, person: str) -> str:
    body = {"meta": {"name": "private"}, "payload": {"type": "explicit", "content": PRIVATE}}
    with server.http(key, person) as http:
        return http.post("/v1/memory/cubes", json=body).json()["meta"]["id"]


@pytest.fixture(scope="module")
def private(server, keys) -> str:
    cube = new_private(server, keys.kv, "ann")
    assert compact(server, cube, keys.kv, "ann", ratio=2)["state"] == "done"
    return cube


def test_compact_exact_near_and_none_in_one_batch(server, keys, private):
    """Requests of all forms at once answer as each does alone."""
    shared = make(server, "mixed", OTHER, keys.kv_admin, shared=True)
    asked = [
        {"cubes": [private], "memory": {"kv": "compact"}},
        {"cubes": [private], "memory": {"kv": "exact"}},
        {"cubes": [shared, private], "memory": {"kv": "near"}},
        {"cubes": [private], "memory": {"kv": "none"}},
    ]
    for each in asked:
        ask(server, key=keys.kv, max_tokens=8, **each)
    by_itself = [said(ask(server, key=keys.kv, max_tokens=8, **each)) for each in asked]
    barrier = threading.Barrier(len(asked))

    def together(each: dict[str, Any]) -> Any:
        barrier.wait()
        return ask(server, key=keys.kv, max_tokens=8, **each)

    with ThreadPoolExecutor(len(asked)) as pool:
        replies = list(pool.map(together, asked))
    assert forms(replies[0]) == ["compact"]
    assert [said(each)[:12] for each in replies] == [each[:12] for each in by_itself]


def test_with_an_adapter_the_text_is_served(server, keys, private):
    """A compact is KV of the base model."""
    module = "model.layers.0.self_attn.q_proj"
    content = content_of(tensors_of({module: (576, 576)}), config_of(targets=["q_proj"]))
    body = {
        "meta": {"name": "manner"},
        "payload": {"type": "parametric", "format": "lora", "content": content},
    }
    with server.http(keys.kv, "ann") as http:
        made = http.post("/v1/memory/cubes", json=body)
        assert made.status_code == 201, made.text
    reply = ask(server, [private, "manner"], keys.kv, max_tokens=8)
    assert {each["form"] for each in reply.memory["cubes"]} >= {"adapter"}
    assert "compact" not in forms(reply)


def test_a_person_and_a_tenant_have_their_own(server, keys, private):
    assert forms(ask(server, [private], keys.kv)) == ["compact"]
    for key, person in ((keys.kv, "bob"), (keys.kv_other, "ann")):
        with pytest.raises(openai.NotFoundError):
            ask(server, [private], key, person=person)
        mine = new_private(server, key, person)
        with server.http(key, person) as http:
            assert http.get(f"/v1/memory/cubes/{mine}/activation").json()["compact"] is None
            for method in ("POST", "DELETE"):
                reply = http.request(method, f"/v1/memory/cubes/{private}/compact")
                assert reply.status_code == 404
        assert "compact" not in forms(ask(server, [mine], key, person=person))
    url = f"/v1/memory/cubes/{private}/compact"
    with server.http(keys.kv_reader, "ann") as http:
        assert http.post(url).status_code == 403
        assert http.delete(url).status_code == 403
    with server.http(keys.kv, "ann") as http:
        assert http.delete(url).status_code == 204
        shown = http.get(f"/v1/memory/cubes/{private}/activation").json()
        assert shown["compact"] is None
    assert not files(server, private)
    assert "compact" not in forms(ask(server, [private], keys.kv))
