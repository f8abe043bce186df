"""`/v1/messages` with memory, through Anthropic's own client."""

from __future__ import annotations

import anthropic
import pytest

from tests.engine.harness import MODEL, wait_for

ASKED = "What is my dog called?"


def fact(server, key, person, text, name="pet") -> str:
    """A cube with one fact about a person; its id."""
    payload = {"type": "explicit", "content": [{"type": "fact", "text": text}]}
    with server.http(key, person) as http:
        made = http.post("/v1/memory/cubes", json={"meta": {"name": name}, "payload": payload})
    cube: str = made.raise_for_status().json()["meta"]["id"]
    return cube


def claude(server, key, **headers) -> anthropic.Anthropic:
    return anthropic.Anthropic(
        base_url=server.url, api_key=key, max_retries=0, timeout=180, default_headers=headers
    )


def ask(client, person, text=ASKED, **extra):
    body = {"memory": {"write": False}, **extra}
    fields = {name: body.pop(name) for name in ("system", "stream") if name in body}
    return client.messages.create(
        model=MODEL,
        max_tokens=6,
        metadata={"user_id": person},
        messages=[{"role": "user", "content": text}],
        extra_body=body,
        **fields,
    )


@pytest.fixture(scope="module")
def yves(server, keys) -> str:
    return fact(server, keys.acme, "yves", "The dog of Yves is called Rex.")


def test_a_message_has_the_memory_of_its_user(server, keys, yves):
    reply = ask(claude(server, keys.acme), "yves", system="Be brief.")
    assert reply.content[0].type == "text"
    assert [cube["id"] for cube in reply.memory["cubes"]] == [yves]
    assert reply.memory["injected_tokens"] > 0
    assert reply.memory["degraded"] == []
    plan = server.http(keys.acme, "yves").get(reply.memory["explain"]).raise_for_status().json()
    assert plan["request_id"] == reply.id


def test_another_person_and_another_tenant_have_none_of_it(server, keys, yves):
    for key, person in ((keys.acme, "zoe"), (keys.globex, "yves")):
        assert ask(claude(server, key), person).memory["cubes"] == []


def test_both_streams_of_the_client_end_with_memory(server, keys, yves):
    client = claude(server, keys.acme)
    raw = list(ask(client, "yves", stream=True))
    assert raw[-1].type == "message_stop"
    assert [cube["id"] for cube in raw[-1].memory["cubes"]] == [yves]
    assert [event.type for event in raw if hasattr(event, "memory")] == [
        "message_delta",
        "message_stop",
    ]
    with client.messages.stream(
        model=MODEL,
        max_tokens=6,
        metadata={"user_id": "yves"},
        messages=[{"role": "user", "content": ASKED}],
        extra_body={"memory": {"write": False}},
    ) as stream:
        told = [event.memory for event in stream if event.type == "message_delta"]
        final = stream.get_final_message()
    assert told[0]["cubes"][0]["id"] == yves
    assert final.usage.output_tokens > 0


def test_headers_name_the_cubes(server, keys, yves):
    raw = claude(server, keys.acme).messages.with_raw_response.create(
        model=MODEL,
        max_tokens=2,
        metadata={"user_id": "yves"},
        messages=[{"role": "user", "content": ASKED}],
        extra_body={"memory": {"write": False}},
    )
    assert raw.headers["x-memos-cubes"] == yves


def test_a_message_is_remembered(server, keys):
    client = claude(server, keys.acme)
    told = ask(client, "wim", "My parrot is called Admiral Beak.", memory={})
    assert told.memory["written"] is True
    wait_for(
        lambda: ask(client, "wim", "What is my parrot called?").memory["cubes"],
        "the message became memory",
    )
    list(ask(client, "wim", "My canoe is called Blue Heron.", memory={}, stream=True))
    with server.http(keys.acme, "wim") as http:
        wait_for(
            lambda: "Heron" in http.post("/v1/memory/search", json={"query": "canoe name"}).text,
            "the streamed message became memory",
        )


def test_errors_have_anthropics_envelope(server, keys):
    client = claude(server, keys.acme)
    with pytest.raises(anthropic.BadRequestError) as unknown:
        ask(client, "yves", memory={"cube": ["x"]})
    assert unknown.value.body["type"] == "error"
    assert unknown.value.body["error"]["type"] == "invalid_request_error"
    assert "memory.cubes" in unknown.value.body["error"]["message"]
    with pytest.raises(anthropic.AuthenticationError) as denied:
        ask(claude(server, "nonsense"), "yves")
    assert denied.value.body["error"]["type"] == "authentication_error"
    with pytest.raises(anthropic.PermissionDeniedError) as forbidden:
        ask(claude(server, keys.acme_reader), "yves", memory={"write": True})
    assert forbidden.value.body["error"]["type"] == "permission_error"
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(
            model="no-such-model", max_tokens=2, messages=[{"role": "user", "content": "Hi"}]
        )
    with server.http(keys.acme) as http:
        refused = http.post("/v1/messages", json={"model": MODEL, "messages": []})
        assert refused.status_code == 400
        assert refused.json()["type"] == "error"


def test_tokens_are_counted_without_memory(server, keys, yves):
    client = claude(server, keys.acme, **{"X-Memos-User": "yves"})
    said = [{"role": "user", "content": ASKED}]
    counted = client.messages.count_tokens(model=MODEL, messages=said)
    bare = client.messages.create(
        model=MODEL, max_tokens=1, messages=said, extra_body={"memory": {"enabled": False}}
    )
    assert not hasattr(bare, "memory")
    cached = bare.usage.cache_read_input_tokens or 0
    created = bare.usage.cache_creation_input_tokens or 0
    assert counted.input_tokens == bare.usage.input_tokens + cached + created
