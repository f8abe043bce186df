"""Claims from chats: the profile over sessions and changes, personas, links, deletion on request."""

from __future__ import annotations

from typing import Any

import httpx

from tests.engine.conftest import Keys
from tests.engine.harness import MODEL, Server, wait_for

SECONDS = 120


def chat(http: httpx.Client, text: str, session: str = "one", **memory: Any) -> dict[str, Any]:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "max_tokens": 8,
        "session_id": session,
        "memory": memory,
    }
    reply = http.post("/v1/chat/completions", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def known(http: httpx.Client, **params: str) -> dict[str, tuple[str, bool]]:
    """Attribute → its newest value, and whether it is still valid."""
    claims = http.get("/v1/memory/claims", params=params).json()["claims"]
    claimed = [each["item"]["claim"] for each in reversed(claims)]
    return {claim["attribute"]: (claim["value"], claim["ends"] is None) for claim in claimed}


def until_known(http: httpx.Client, **wanted: tuple[str, bool] | None) -> None:
    names = {name.replace("_", "."): value for name, value in wanted.items()}

    def look() -> bool:
        found = known(http)
        return all(found.get(name) == value for name, value in names.items())

    wait_for(look, f"{names}", SECONDS)


def explained(http: httpx.Client, request: str) -> dict[str, Any]:
    """The plan of a request, which is stored after its reply."""
    path = f"/v1/memory/explain/{request}"
    wait_for(lambda: http.get(path).status_code == 200, "the plan", SECONDS)
    return http.get(path).json()


def test_claims_carry_over_to_the_next_session_and_change(server: Server, keys: Keys):
    http = server.http(keys.acme, "rosa")
    chat(http, "I live in Lisbon.")
    until_known(http, home=("Lisbon", True))
    reply = chat(http, "Good morning!", session="two")
    assert "profile" in [cube["name"] for cube in reply["memory"]["cubes"]]
    chat(http, "My cat is called Miso.", session="two")
    until_known(http, cat_name=("Miso", True))
    chat(http, "I moved to Porto.", session="two")
    until_known(http, home=("Porto", True))
    profile = http.get("/v1/memory/cubes/profile").json()
    assert [item["claim"]["value"] for item in profile["payload"]["content"]] == ["Porto"]
    past = http.get("/v1/memory/claims", params={"attribute": "home"}).json()["claims"]
    assert [each["item"]["claim"]["value"] for each in past] == ["Porto", "Lisbon"]
    stranger = server.http(keys.acme, "otto")
    assert known(stranger) == {}


def test_kv_of_an_unchanged_profile_is_reused(server: Server, keys: Keys):
    http = server.http(keys.acme, "piet")
    for text in ("I live in Utrecht.", "I work at Globex.", "I'm allergic to walnuts."):
        chat(http, text)
    until_known(http, home=("Utrecht", True), employer=("Globex", True))

    def cached() -> bool:
        reply = chat(http, "Hello there, how are you?", "three", write=False, retrieve=False)
        cubes = {cube["name"]: cube for cube in reply["memory"]["cubes"]}
        return cubes["profile"]["form"] == "kv"

    wait_for(cached, "the profile from stored KV", SECONDS)


def test_a_persona_has_its_own_profile(server: Server, keys: Keys):
    http = server.http(keys.acme, "nora")
    chat(http, "I live in Bergen.")
    until_known(http, home=("Bergen", True))
    chat(http, "I work at Globex.", persona="nurse")
    until_known(http, employer=("Globex", True))

    def cubes(**memory: Any) -> set[str]:
        reply = chat(http, "Good morning!", "four", write=False, retrieve=False, **memory)
        return {cube["name"] for cube in reply["memory"]["cubes"]}

    assert cubes(persona="nurse") == {"profile", "profile~nurse"}
    assert cubes() == cubes(persona="parent") == {"profile"}


def test_a_link_finds_an_item_that_shares_no_word_with_the_question(server: Server, keys: Keys):
    http = server.http(keys.acme, "lena")
    chat(http, "My sister is called Maria.")
    until_known(http, sister_name=("Maria", True))
    fact = {"type": "explicit", "content": [{"text": "Maria started at the post office."}]}
    assert http.post("/v1/memory/cubes", json={"payload": fact}).status_code == 201
    reply = chat(http, "Does my sister have a job?", "two", write=False, top_k=2)
    plan = explained(http, reply["id"])
    used = [entry["reason"] for entry in plan["entries"] if entry["decision"] == "used"]
    assert "names Maria, as a better item does" in used


def test_a_request_to_forget_is_carried_out_after_the_reply(server: Server, keys: Keys):
    http = server.http(keys.acme, "vera")
    chat(http, "My cat is called Miso.")
    until_known(http, cat_name=("Miso", True))
    chat(http, "Forget that my cat is called Miso.")
    until_known(http, cat_name=None)

    def words() -> list[str]:
        query = {"query": "cat called Miso", "top_k": 20}
        found = http.post("/v1/memory/search", json=query).json()
        return [r["item"]["text"] for r in found["results"] if "Miso" in r["item"]["text"]]

    wait_for(lambda: words() == [], "no word of it", SECONDS)
