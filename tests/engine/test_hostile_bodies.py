"""Hostile bodies on every route that generates or stores: no 5xx, nothing of another tenant, a server that lives."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.engine.harness import MODEL, Server, chat, wait_for
from tests.engine.kv import make
from tests.hostile import EMPTY_GRAMMARS, RAW, contents, forged, malformed, memory_calls

SLOWEST_SECONDS = 20.0
THREADS = 4
CANARY = "The harbour key of Quillfeather is under the third stone."
WORDS = ("Quillfeather", "third stone")
ROUTES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hello."}], "max_tokens": 1},
    "/v1/completions": {"prompt": "Hello.", "max_tokens": 1},
    "/v1/messages": {"messages": [{"role": "user", "content": "Hello."}], "max_tokens": 1},
    "/v1/responses": {"input": "Hello.", "max_output_tokens": 1},
}
IMAGE = "http://127.0.0.1:9/x.png"

Call = tuple[str, str, Any]
"""(method, path, body): bytes are sent as they are."""


@pytest.fixture(scope="module")
def others(server: Server, keys: Any) -> dict[str, str]:
    """What another tenant has: a cube, a turn, a stored response."""
    cube = make(server, "quill-notes", CANARY, keys.globex, as_person="victim")
    chat(server, keys.globex, "victim", CANARY, session_id="quill-session")
    with server.http(keys.globex, "victim") as http:
        body = {"model": MODEL, "input": CANARY, "user": "victim", "max_output_tokens": 1}
        response = http.post("/v1/responses", json=body).raise_for_status().json()["id"]
        query = {"query": "Where is the harbour key?"}
        wait_for(lambda: http.post("/v1/memory/search", json=query).json()["results"], "its memory")
    return {
        "person": "victim",
        "cube": cube,
        "name": "quill-notes",
        "adapter": cube,
        "session": "quill-session",
        "salt": "quill-salt",
        "response": response,
        "request": "chatcmpl-quill",
        "text": "Where is the harbour key?",
    }


@pytest.fixture(scope="module")
def attackers(server: Server, keys: Any) -> Iterator[list[httpx.Client]]:
    """A key of each role of one tenant, and a token of one of its persons."""
    with server.http(keys.acme) as http:
        scopes = ["chat", "memory.read", "memory.write", "memory.delete", "memory.share"]
        made = http.post("/v1/memory/people/mallory/tokens", json={"scopes": scopes})
        token = made.raise_for_status().json()["token"]
    named = [(keys.acme_reader, "mallory"), (keys.acme, "mallory"), (keys.acme_admin, "mallory")]
    clients = [server.http(key, person) for key, person in [*named, (token, None)]]
    yield clients
    for client in clients:
        client.close()


def answered(client: httpx.Client, call: Call) -> str | None:
    """What is wrong with the answer; None: nothing."""
    method, path, body = call
    sent: dict[str, Any] = {"params": body} if method == "GET" else {}
    if isinstance(body, bytes):
        sent = {"content": body, "headers": {"Content-Type": "application/json"}}
    elif method != "GET":
        sent = {
            "content": json.dumps(body).encode(),
            "headers": {"Content-Type": "application/json"},
        }
    shown = f"{method} {path[:80]} {str(body)[:200]}"
    begun = time.monotonic()
    try:
        reply = client.request(method, path, timeout=SLOWEST_SECONDS, **sent)
    except httpx.HTTPError as error:
        return f"{error!r} after {time.monotonic() - begun:.1f} s: {shown}"
    if reply.status_code >= 500:
        return f"{reply.status_code} {reply.text[:300]}: {shown}"
    if any(word in reply.text for word in WORDS):
        return f"text of another tenant: {shown}"
    return None


def problems(clients: Sequence[httpx.Client], calls: Sequence[Call]) -> list[str]:
    """Each call by one of the clients, in turns that no cycle of routes shares."""
    count = len(clients)
    turns = (clients[(number + number // count) % count] for number in itertools.count())
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(answered, itertools.islice(turns, len(calls)), calls))
    return [each for each in found if each is not None]


def lives(server: Server, key: str) -> None:
    reply = chat(server, key, "sane", "Hello.", memory={"write": False})
    assert reply.usage.completion_tokens > 0


def posted(fields: Sequence[dict[str, Any]]) -> list[Call]:
    """Each field on one of the routes, in turn."""
    return [
        ("POST", path, {"model": MODEL, **ROUTES[path], **each})
        for each, path in zip(fields, itertools.cycle(ROUTES), strict=False)
    ]


def test_forged_fields_reach_nothing_of_another_tenant(server, keys, others, attackers):
    fields = forged(others)
    for turn, client in enumerate(attackers):
        assert problems([client], posted(fields[turn:] + fields[:turn])) == []
    lives(server, keys.acme)


def test_malformed_fields_are_the_clients_errors(server, keys, attackers):
    assert problems(attackers, posted(malformed())) == []
    lives(server, keys.acme)


@pytest.mark.parametrize("grammar", EMPTY_GRAMMARS, ids=["grammar", "schema"])
def test_a_grammar_that_no_text_satisfies_ends_its_own_request_alone(server, keys, grammar):
    """vLLM ends such a request with an error of the server: no token is permitted."""
    path = "/v1/chat/completions"
    with server.http(keys.acme, "mallory") as http, ThreadPoolExecutor(1) as pool:
        other = pool.submit(chat, server, keys.acme, "sane", "Hello.", memory={"write": False})
        reply = http.post(path, json={"model": MODEL, **ROUTES[path], **grammar})
        assert reply.status_code in (400, 500)
        assert set(reply.json()["error"]) >= {"message", "type"}
        assert other.result(SLOWEST_SECONDS).usage.completion_tokens > 0
    lives(server, keys.acme)


def test_hostile_contents_are_answered_or_refused(server, keys, attackers):
    shapes: tuple[tuple[str, Callable[[Any], dict[str, Any]]], ...] = (
        ("/v1/chat/completions", lambda said: {"messages": [{"role": "user", "content": said}]}),
        ("/v1/chat/completions", lambda said: {"messages": [{"role": "system", "content": said}]}),
        ("/v1/messages", lambda said: {"messages": [{"role": "user", "content": said}]}),
        ("/v1/completions", lambda said: {"prompt": said}),
        ("/v1/responses", lambda said: {"input": said}),
    )
    turns = itertools.cycle(shapes)
    calls: list[Call] = [
        ("POST", path, {"model": MODEL, **ROUTES[path], **shape(said)})
        for said in contents(IMAGE)
        for path, shape in itertools.islice(turns, 2)
    ]
    assert problems(attackers, calls) == []
    lives(server, keys.acme)


def test_bodies_that_are_hardly_json_are_refused(server, keys, attackers):
    paths = [*ROUTES, "/v1/memory/search", "/v1/memory/cubes", "/v1/memory/feedback", "/mcp"]
    calls = [("POST", path, raw) for raw in RAW for path in paths]
    assert problems(attackers, calls) == []
    lives(server, keys.acme)


def test_hostile_calls_of_the_memory_api_reach_nothing_of_another_tenant(
    server, keys, others, attackers
):
    calls = memory_calls(others)
    for client in attackers:
        assert problems([client], calls) == []
    with server.http(keys.globex, "victim") as http:
        kept = http.get(f"/v1/memory/cubes/{others['cube']}").raise_for_status().json()
    assert [item["text"] for item in kept["payload"]["content"]] == [CANARY]
    lives(server, keys.acme)
