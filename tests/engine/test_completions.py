"""`/v1/completions` and batches of chats with memory."""

from __future__ import annotations

import json

import openai
import pytest

from tests.engine.harness import MODEL, events, wait_for
from tests.engine.test_messages import fact

ASKED = "Facts about my pets.\n\nWhat is my dog called? It is called"


@pytest.fixture(scope="module")
def cleo(server, keys) -> str:
    return fact(server, keys.acme, "cleo", "The dog of Cleo is called Pixel.")


def complete(server, key, prompt, person="cleo", memory=None, **extra):
    body = {"memory": memory} if memory is not None else {}
    return server.client(key).completions.create(
        model=MODEL,
        prompt=prompt,
        max_tokens=4,
        temperature=0,
        user=person,
        extra_body=body,
        **extra,
    )


@pytest.mark.parametrize("prompt", [ASKED, [ASKED]])
def test_memory_stands_in_front_of_a_text(server, keys, cleo, prompt):
    reply = complete(server, keys.acme, prompt)
    bare = complete(server, keys.acme, prompt, memory={"enabled": False})
    assert [cube["id"] for cube in reply.memory["cubes"]] == [cleo]
    assert reply.usage.prompt_tokens > bare.usage.prompt_tokens
    assert reply.memory["written"] is False
    assert "memory.write" in reply.memory["not_written"]
    assert complete(server, keys.acme, prompt, person="carl").memory["cubes"] == []
    plan = server.http(keys.acme, "cleo").get(reply.memory["explain"]).raise_for_status().json()
    assert plan["request_id"] == reply.id


def test_a_stream_ends_with_memory(server, keys, cleo):
    body = {"model": MODEL, "prompt": ASKED, "user": "cleo", "stream": True, "max_tokens": 4}
    with server.http(keys.acme) as http:
        reply = http.post("/v1/completions", json=body)
    data = events(reply)
    assert data[-1] == "[DONE]"
    with_memory = [each for each in data[:-1] if "memory" in json.loads(each)]
    assert with_memory == [data[-2]]
    assert json.loads(data[-2])["memory"]["cubes"][0]["id"] == cleo
    assert reply.headers["x-memos-cubes"] == cleo


@pytest.mark.parametrize(
    ("prompt", "extra"),
    [([ASKED, ASKED], {}), ([1, 2, 3], {}), ([[1, 2], [3]], {}), (ASKED, {"echo": True})],
)
def test_what_has_no_place_for_memory_says_so(server, keys, cleo, prompt, extra):
    reply = complete(server, keys.acme, prompt, **extra)
    assert reply.memory["skipped"]
    assert (reply.memory["cubes"], reply.memory["written"]) == ([], False)
    for name in ("required", "write"):
        with pytest.raises(openai.BadRequestError, match=name):
            complete(server, keys.acme, prompt, memory={name: True}, **extra)


def test_a_completion_is_remembered_on_request_alone(server, keys):
    complete(server, keys.acme, "My tractor is called Bess.", person="tess")
    said = complete(
        server, keys.acme, "My wagon is called Dune.", person="tess", memory={"write": True}
    )
    assert said.memory["written"] is True
    with server.http(keys.acme, "tess") as http:
        found = wait_for(
            lambda: (
                (t := http.post("/v1/memory/search", json={"query": "what is called"}).text)
                and "Dune" in t
                and t
            ),
            "the completion became memory",
        )
    assert "Bess" not in found


def test_each_conversation_of_a_batch_has_its_memory(server, keys, cleo):
    fact(server, keys.acme, "cleo", "The horse of Cleo is called Comet.", name="horse")
    asked = ("What is my dog called?", "What is my horse called?", "Say hello.")
    body = {
        "model": MODEL,
        "user": "cleo",
        "max_tokens": 3,
        "temperature": 0,
        "messages": [[{"role": "user", "content": text}] for text in asked],
        "memory": {"top_k": 1},
    }
    with server.http(keys.acme) as http:
        reply = http.post("/v1/chat/completions/batch", json=body)
        tree = reply.raise_for_status().json()
        assert len(tree["choices"]) == len(tree["memory"]) == 3
        dog, horse = (part["cubes"][0]["id"] for part in tree["memory"][:2])
        assert dog == cleo != horse
        assert set(reply.headers["x-memos-cubes"].split(",")) >= {dog, horse}
        assert all(part["written"] for part in tree["memory"])
        first = tree["memory"][1]["explain"]
    with server.http(keys.acme, "cleo") as http:
        plan = http.get(first).raise_for_status().json()
        assert plan["request_id"] == f"{tree['id']}-1"
        bad = http.post("/v1/chat/completions/batch", json={**body, "memory": {"topk": 1}})
        assert bad.status_code == 400
        wait_for(
            lambda: "hello" in http.post("/v1/memory/search", json={"query": "Say hello"}).text,
            "the batch became memory",
        )
