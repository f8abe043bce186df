"""Turns become memory: across sessions, per person and tenant, and only where writing is allowed."""

from __future__ import annotations

import httpx

from tests.engine.harness import chat, wait_for


def items_of(http: httpx.Client) -> list[str]:
    """Texts of all items that the client's person may read."""
    cubes = http.get("/v1/memory/cubes").raise_for_status().json()["cubes"]
    texts = []
    for cube in cubes:
        full = http.get(f"/v1/memory/cubes/{cube['id']}").raise_for_status().json()
        texts += [item["text"] for item in full["payload"]["content"]]
    return texts


def test_a_turn_of_one_session_is_retrieved_in_the_next(server, keys):
    first = chat(server, keys.acme, "mia", "My cat is called Miso.", session_id="one")
    assert first.memory["written"] is True
    http = server.http(keys.acme, "mia")
    wait_for(lambda: "My cat is called Miso." in items_of(http), "the turn becoming memory")
    found = wait_for(
        lambda: chat(
            server,
            keys.acme,
            "mia",
            "What is the name of my cat?",
            session_id="two",
            memory={"write": False},
            max_tokens=16,
        ).memory["cubes"],
        "retrieval",
    )
    assert found[0]["kind"] == "explicit"
    assert found[0]["tokens"] > 0
    assert found[0]["items"][0]["score"] > 0
    reply = chat(
        server,
        keys.acme,
        "mia",
        "What is the name of my cat?",
        session_id="two",
        memory={"write": False},
        max_tokens=16,
    )
    assert "Miso" in reply.choices[0].message.content
    assert reply.memory["injected_tokens"] == sum(cube["tokens"] for cube in reply.memory["cubes"])


def test_other_people_and_tenants_do_not_find_a_turn(server, keys):
    chat(server, keys.acme, "ann", "The vault code is ZEBRA-42.", session_id="secret")
    wait_for(lambda: items_of(server.http(keys.acme, "ann")), "the turn becoming memory")
    for key, person in ((keys.acme, "bob"), (keys.acme, None), (keys.globex, "ann")):
        reply = chat(server, key, person, "What is the vault code?", memory={"write": False})
        assert reply.memory["cubes"] == []
        http = server.http(key, person)
        found = http.post("/v1/memory/search", json={"query": "vault code ZEBRA-42"}).json()
        assert found["results"] == []
        assert not any("ZEBRA" in text for text in items_of(http))


def test_an_admin_reads_a_persons_memory_but_never_in_another_persons_chat(server, keys):
    chat(server, keys.acme, "eve", "My locker number is 5519.", session_id="locker")
    wait_for(lambda: items_of(server.http(keys.acme, "eve")), "the turn becoming memory")
    assert any("5519" in text for text in items_of(server.http(keys.acme_admin)))
    reply = chat(
        server, keys.acme_admin, "bob", "What is the locker number?", memory={"write": False}
    )
    assert reply.memory["cubes"] == []


def test_store_false_write_false_readers_and_anonymous_requests_write_nothing(server, keys):
    said = "Purple elephants dance at noon."
    for key, person, extra in (
        (keys.acme, "quiet", {"store": False}),
        (keys.acme, "quiet", {"memory": {"write": False}}),
        (keys.acme, "quiet", {"memory": {"enabled": False}}),
        (keys.acme_reader, "quiet", {}),
        (keys.acme, None, {}),
    ):
        reply = chat(server, key, person, said, **extra)
        assert getattr(reply, "memory", {"written": False})["written"] is False
    # A later turn becomes memory, so the earlier ones had enough time.
    chat(server, keys.acme, "quiet", "This one is kept.", session_id="kept")
    http = server.http(keys.acme, "quiet")
    texts = wait_for(lambda: items_of(http), "the kept turn becoming memory")
    assert "This one is kept." in texts
    assert said not in texts
    assert (
        server.http(keys.acme_admin)
        .post("/v1/memory/search", json={"query": said})
        .json()["results"]
        == []
    )


def test_a_stream_is_remembered_too(server, keys):
    stream = server.client(keys.acme).chat.completions.create(
        model="demo",
        user="stella",
        messages=[{"role": "user", "content": "A cello has four strings."}],
        max_tokens=8,
        temperature=0,
        stream=True,
        extra_body={"session_id": "music"},
    )
    spoken = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    http = server.http(keys.acme, "stella")
    texts = wait_for(lambda: items_of(http), "the streamed turn becoming memory")
    assert texts == ["A cello has four strings.", spoken.strip()]
