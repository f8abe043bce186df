"""Replies that are cut, empty or abandoned: the person's words become memory, the reply no evidence."""

from __future__ import annotations

import socket
import time

import httpx
import pytest

from tests.engine.harness import MODEL, chat, wait_for


def stored(http: httpx.Client) -> list[tuple[str, str | None]]:
    """Text and mark of all items of the client's person."""
    cubes = http.get("/v1/memory/cubes").raise_for_status().json()["cubes"]
    found = []
    for cube in cubes:
        full = http.get(f"/v1/memory/cubes/{cube['id']}").raise_for_status().json()
        found += [(item["text"], item["mark"]) for item in full["payload"]["content"]]
    return found


def test_a_reply_that_is_cut_is_stored_with_a_mark_and_found_by_no_search(server, keys):
    said = "Tell me a long tale of the ship Zephyrine."
    reply = chat(server, keys.acme, "cora", said, max_tokens=5, session_id="one")
    assert reply.choices[0].finish_reason == "length"
    assert (reply.memory["written"], reply.memory["not_written"]) == (True, None)
    http = server.http(keys.acme, "cora")
    items = wait_for(lambda: stored(http), "the turn becoming memory")
    assert items[0] == (said, None)
    assert [mark for _, mark in items[1:]] == ["cut"] * (len(items) - 1)
    query = {"query": said, "top_k": 50}
    hits = http.post("/v1/memory/search", json=query).raise_for_status().json()["results"]
    assert [hit["item"]["text"] for hit in hits] == [said]
    every = http.post("/v1/memory/search", json={**query, "filters": {"marked": True}}).json()
    assert len(every["results"]) >= len(hits)


def test_words_are_stored_though_the_reply_is_empty(server, keys):
    said = "My locker has the number 5519."
    end = {"2": 100}  # <|im_end|>, as the first token
    reply = chat(server, keys.acme, "edna", said, session_id="one", logit_bias=end)
    assert not reply.choices[0].message.content
    assert reply.memory["written"] is True
    http = server.http(keys.acme, "edna")
    items = wait_for(lambda: stored(http), "the turn becoming memory")
    assert items == [(said, None)]


@pytest.mark.parametrize("stream", [False, True])
def test_words_are_stored_though_the_client_goes_away_at_once(server, keys, stream):
    person, said = f"gone-{stream}".lower(), f"My bicycle number {stream} is green."
    http = server.http(keys.acme, person)
    body = http.build_request(
        "POST",
        "/v1/chat/completions",
        json={
            "model": MODEL,
            "user": person,
            "messages": [{"role": "user", "content": said}],
            "max_tokens": 1000,
            "ignore_eos": True,
            "stream": stream,
        },
    )
    head = f"POST {body.url.path} HTTP/1.1\r\n" + "".join(
        f"{name}: {value}\r\n" for name, value in body.headers.items()
    )
    with socket.create_connection((body.url.host, body.url.port)) as connection:
        connection.sendall(head.encode() + b"\r\n" + body.read())
        time.sleep(1.0)  # uvicorn drops a request whose client leaves before it is read
    items = wait_for(lambda: stored(http), "the words becoming memory")
    assert items[0] == (said, None)
    assert {mark for _, mark in items[1:]} <= {"aborted"}
