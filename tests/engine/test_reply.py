"""Memory in a reply: body, last chunk, headers, explain, errors."""

from __future__ import annotations

import json

import pytest

from tests.engine.harness import MODEL, chat, events


@pytest.fixture(scope="module")
def xena(server, keys) -> str:
    """A person with one fact; returns the cube's id."""
    with server.http(keys.acme, "xena") as http:
        reply = http.post(
            "/v1/memory/cubes",
            json={
                "meta": {"name": "dog"},
                "payload": {
                    "type": "explicit",
                    "content": [{"type": "fact", "text": "Xena's dog is called Argo."}],
                },
            },
        )
        cube: str = reply.raise_for_status().json()["meta"]["id"]
    return cube


def stream(server, key, **body):
    tree = {
        "model": MODEL,
        "user": "xena",
        "stream": True,
        "max_tokens": 6,
        "temperature": 0,
        "messages": [{"role": "user", "content": "What is my dog called?"}],
        "memory": {"write": False},
        **body,
    }
    with server.http(key) as http:
        reply = http.post("/v1/chat/completions", json=tree)
    reply.raise_for_status()
    return reply.headers, events(reply)


def test_the_body_lists_the_used_cubes(server, keys, xena):
    reply = chat(server, keys.acme, "xena", "What is my dog called?", memory={"write": False})
    memory = reply.memory
    assert [cube["id"] for cube in memory["cubes"]] == [xena]
    cube = memory["cubes"][0]
    assert cube["kind"] == "explicit"
    assert cube["form"] == "text"
    assert cube["version"].startswith("v_")
    assert memory["injected_tokens"] == cube["tokens"] > 0
    assert isinstance(memory["cached_tokens"], int)
    assert {"read", "stable", "embed", "search", "plan", "render", "first_token"} <= set(
        memory["steps_ms"]
    )
    assert memory["degraded"] == []


@pytest.mark.parametrize("choices", [1, 2])
def test_only_the_last_chunk_lists_the_used_cubes(server, keys, xena, choices):
    headers, data = stream(server, keys.acme, n=choices, temperature=0.5 * (choices - 1))
    assert data[-1] == "[DONE]"
    chunks = [json.loads(event) for event in data[:-1]]
    with_memory = [i for i, chunk in enumerate(chunks) if "memory" in chunk]
    assert with_memory == [len(chunks) - 1]
    assert [cube["id"] for cube in chunks[-1]["memory"]["cubes"]] == [xena]
    assert headers["x-memos-cubes"] == xena


def test_with_usage_the_usage_chunk_is_the_last(server, keys, xena):
    _, data = stream(server, keys.acme, stream_options={"include_usage": True})
    last = json.loads(data[-2])
    assert last["choices"] == []
    assert last["memory"]["cached_tokens"] == (last["usage"]["prompt_tokens_details"] or {}).get(
        "cached_tokens", 0
    )


def test_a_stream_begins_with_the_engines_first_token_and_not_before(server, keys, xena):
    """The first event, which carries the role, comes out of vLLM's own generator."""
    _, ours = stream(server, keys.acme)
    _, theirs = stream(server, keys.acme, memory={"enabled": False})
    assert json.loads(ours[0])["choices"] == json.loads(theirs[0])["choices"]


def test_the_header_names_the_cubes_and_exists_without_any(server, keys, xena):
    client = server.client(keys.acme).chat.completions.with_raw_response
    for person, expected in (("xena", xena), ("newcomer", "")):
        raw = client.create(
            model=MODEL,
            user=person,
            max_tokens=1,
            messages=[{"role": "user", "content": "What is my dog called?"}],
            extra_body={"memory": {"write": False}},
        )
        assert raw.headers["x-memos-cubes"] == expected
        assert "x-memos-degraded" not in raw.headers


def test_replies_carry_the_header_that_keeps_a_person_on_a_replica(server, keys):
    def header(person: str, **headers: str) -> str:
        body = {
            "model": MODEL,
            "user": person,
            "max_tokens": 1,
            "messages": [{"role": "user", "content": "Hi."}],
            "memory": {"write": False},
        }
        with server.http(keys.acme) as http:
            reply = http.post("/v1/chat/completions", json=body, headers=headers)
        return reply.raise_for_status().headers["x-session-id"]

    first = header("affine-1")
    assert header("affine-1") == first != header("affine-2")
    assert header("affine-1", **{"X-Session-ID": first}) == first
    assert header("affine-1", **{"X-Session-ID": "monday"}) == "monday"


def test_explain_shows_each_choice_and_rejection_with_its_reason(server, keys, xena):
    reply = chat(
        server,
        keys.acme,
        "xena",
        "",
        memory={"write": False, "cubes": ["dog"]},
        messages=[{"role": "user", "content": "What is my dog called? Is it Argo?"}],
    )
    plan = (
        server.http(keys.acme, "xena")
        .get(f"/v1/memory/explain/{reply.id}")
        .raise_for_status()
        .json()
    )
    assert plan["request_id"] == reply.id
    decisions = {(e["placement"], e["decision"]): e["reason"] for e in plan["entries"]}
    assert decisions[("stable", "used")] == "named in the request"
    assert decisions[("retrieved", "rejected")] == "the prompt has its cube already"
    assert plan["budget"]["limit"] <= plan["budget"]["context"]
    assert "Argo" not in json.dumps(plan)  # a plan holds no text


def test_explain_is_for_the_person_who_chatted(server, keys, xena):
    reply = chat(server, keys.acme, "xena", "What is my dog called?", memory={"write": False})
    path = f"/v1/memory/explain/{reply.id}"
    assert server.http(keys.acme, "xena").get(path).status_code == 200
    assert server.http(keys.acme_admin).get(path).status_code == 200
    assert server.http(keys.acme, "yuri").get(path).status_code == 404
    assert server.http(keys.globex, "xena").get(path).status_code == 404


def test_a_request_id_of_the_clients_choosing_does_not_overwrite_anothers_plan(server, keys, xena):
    header = {"X-Request-Id": "chosen"}
    chat(server, keys.acme, "xena", "What is my dog called?", extra_headers=header)
    chat(server, keys.acme, "yuri", "Something else?", extra_headers=header)
    plan = server.http(keys.acme, "xena").get("/v1/memory/explain/chatcmpl-chosen").json()
    assert plan["person"] == "xena"


@pytest.mark.parametrize(
    ("memory", "status", "says"),
    [
        ({"enabld": True}, 400, "did you mean `memory.enabled`?"),
        ("yes", 400, "`memory` must be an object"),
        ({"top_k": -1}, 400, "memory.top_k"),
        ({"kv": "about right"}, 400, "memory.kv"),
        ({"adapter": "x"}, 404, "there is no cube 'x' here"),
        ({"cubes": ["no-such-cube"]}, 404, "there is no cube 'no-such-cube' here"),
    ],
)
def test_errors_of_the_memory_field(server, keys, memory, status, says):
    with server.http(keys.acme) as http:
        reply = http.post(
            "/v1/chat/completions",
            json={
                "model": MODEL,
                "user": "zoe",
                "memory": memory,
                "max_tokens": 1,
                "messages": [{"role": "user", "content": "Hi."}],
            },
        )
    assert reply.status_code == status
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
    assert says in reply.json()["error"]["message"]


def test_another_persons_cube_gives_the_error_of_an_unknown_one(server, keys, xena):
    with server.http(keys.acme) as http:
        replies = [
            http.post(
                "/v1/chat/completions",
                json={
                    "model": MODEL,
                    "user": "zoe",
                    "memory": {"cubes": [ref]},
                    "messages": [{"role": "user", "content": "Hi."}],
                },
            )
            for ref in (xena, "cube_000000000000000000000000000000000")
        ]
    assert [reply.status_code for reply in replies] == [404, 404]
    first, second = (reply.json()["error"] for reply in replies)
    assert {**first, "message": ""} == {**second, "message": ""}


def test_a_reader_may_not_insist_on_writing(server, keys):
    with server.http(keys.acme_reader) as http:
        reply = http.post(
            "/v1/chat/completions",
            json={
                "model": MODEL,
                "user": "zoe",
                "memory": {"write": True},
                "messages": [{"role": "user", "content": "Hi."}],
            },
        )
    assert reply.status_code == 403


def test_memory_works_with_tools_and_schemas_and_two_choices(server, keys, xena):
    schema = {
        "type": "object",
        "properties": {"dog": {"type": "string", "maxLength": 10}},
        "required": ["dog"],
    }
    reply = chat(
        server,
        keys.acme,
        "xena",
        "What is my dog called?",
        memory={"write": False},
        n=2,
        temperature=0.5,
        response_format={"type": "json_schema", "json_schema": {"name": "dog", "schema": schema}},
        max_tokens=24,
    )
    assert len(reply.choices) == 2
    assert all("dog" in json.loads(choice.message.content) for choice in reply.choices)
    assert reply.memory["cubes"]
