"""Persistent KV of cubes and conversations: sharing, activation, prefetch, metrics."""

from __future__ import annotations

import time

from tests.engine.harness import cached_tokens, chat, wait_for
from tests.engine.kv import (
    BLOCK,
    QUESTION,
    RULES,
    ask,
    chains,
    contexts_of,
    explain,
    in_ram,
    make,
    same,
    served,
)

# -- sharing ---------------------------------------------------------------------------------------


def test_a_shared_cube_is_computed_once_for_all_people_of_a_tenant(server, keys):
    text = " ".join(RULES)
    cube = make(server, "rules", text, keys.kv_admin)
    make(server, "rules", text, keys.kv_other, as_person="gus", person="gus")
    first = ask(server, "kv-ann", cube, keys.kv)
    assert cached_tokens(first) <= BLOCK, "at most the text in front of every cube"
    tokens = first.usage.prompt_tokens
    wait_for(
        lambda: (
            explain(server, reply := ask(server, "kv-bea", cube, keys.kv), "kv-bea", keys.kv)
            and cached_tokens(reply)
        ),
        "KV of the cube",
    )
    second = ask(server, "kv-cid", cube, keys.kv)
    assert tokens - cached_tokens(second) < 40 + BLOCK, "only the question is computed"
    assert same(second, first)
    assert second.memory["cubes"][0]["form"] == "kv"
    assert first.memory["cubes"][0]["form"] == "text"
    stranger = ask(server, "gus", "rules", keys.kv_other)
    assert cached_tokens(stranger) == 0, "the same words in another tenant are computed there"
    assert same(stranger, first)


def test_kv_of_a_private_cube_is_not_used_for_other_people(server, keys):
    text = "My diary. " + " ".join(RULES[:20])
    for person in ("kv-dora", "kv-emil"):
        make(server, "diary", text, keys.kv, as_person=person, person=person)
    first = ask(server, "kv-dora", "diary", keys.kv)
    plan = explain(server, first, "kv-dora", keys.kv_admin)
    assert [segment["shared"] for segment in plan["kv"]["segments"]][-1] is False
    time.sleep(2)  # time for a save
    assert cached_tokens(ask(server, "kv-dora", "diary", keys.kv)) > 300
    other = ask(server, "kv-emil", "diary", keys.kv)
    assert cached_tokens(other) == 0
    assert same(other, first)


def test_whether_others_have_sent_a_system_message_cannot_be_told(server, keys):
    """A guess of what others send is computed in full, however many have sent it, and no plan tells."""
    cube = make(server, "tone", " ".join(RULES[:20]), keys.kv_admin)
    system = {"role": "system", "content": "You answer in one short sentence."}
    messages = [system, {"role": "user", "content": QUESTION}]
    for person in ("kv-f1", "kv-f2", "kv-f3", "kv-f4"):
        reply = ask(server, person, cube, keys.kv, messages=messages)
        assert cached_tokens(reply) == 0
        for key, shared in ((keys.kv, None), (keys.kv_admin, False)):
            plan = explain(server, reply, person, key)
            assert plan["kv"]["segments"][-1]["shared"] is shared
        time.sleep(1)  # time for a save
    again = ask(server, "kv-f1", cube, keys.kv, messages=messages)
    assert cached_tokens(again) > 300, "what a person sent serves the same person"


def test_kv_behind_earlier_messages_is_private(server, keys):
    """An earlier message may name a person."""
    cube = make(server, "front", "Front. " + " ".join(RULES[:8]), keys.kv_admin)
    earlier = [
        {"role": "assistant", "content": "Hello Alice, how is your knee?"},
        {"role": "user", "content": QUESTION},
    ]
    shared = []
    for extra in ({"messages": earlier}, {}):
        reply = ask(server, "kv-front", cube, keys.kv, **extra)
        plan = explain(server, reply, "kv-front", keys.kv_admin)
        shared.append([segment["shared"] for segment in plan["kv"]["segments"]])
    assert shared == [[False, False], [True, True]]


def test_kv_none_neither_loads_nor_saves(server, keys):
    cube = make(server, "unkept", "Unkept. " + " ".join(RULES[:10]), keys.kv_admin)
    for person in ("kv-g1", "kv-g2"):
        reply = ask(server, person, cube, keys.kv, memory={"kv": "none"})
        assert cached_tokens(reply) == 0
        time.sleep(1)


def test_an_activated_cube_has_kv_for_the_first_question(server, keys):
    cube = make(server, "ahead", "Ahead. " + " ".join(RULES[:20]), keys.kv_admin)
    system = "You answer politely."
    with server.http(keys.kv_admin) as http:
        url = f"/v1/memory/cubes/{cube}"
        made = http.post(f"{url}/activate", json={"system": system, "pinned": True})
        assert made.status_code == 200, made.text
        again = http.post(f"{url}/activate", json={"system": system, "pinned": True})
        shown = http.get(f"{url}/activation").json()
    assert (made.json()["built"], again.json()["built"]) == (True, False)
    assert made.json()["segments"][-1]["shared"] is True
    assert shown["chains"] >= 1
    assert shown["pinned"] is True
    messages = [{"role": "system", "content": system}, {"role": "user", "content": QUESTION}]
    reply = ask(server, "kv-jo", cube, keys.kv, messages=messages)
    assert cached_tokens(reply) == made.json()["segments"][-1]["end"]
    assert reply.memory["cubes"][0]["form"] == "kv"


def test_activation_is_authorized_and_reports_what_it_cannot_do(server, keys):
    cube = make(server, "long", " ".join(RULES) * 2, keys.kv_admin)
    with server.http(keys.kv_other) as http:
        assert http.post(f"/v1/memory/cubes/{cube}/activate").status_code == 404
    with server.http(keys.kv_reader) as http:
        assert http.post(f"/v1/memory/cubes/{cube}/activate").status_code == 403
    with server.http(keys.kv) as http:
        for_all_people = http.post(f"/v1/memory/cubes/{cube}/activate", json={"system": "Hi."})
        too_long = http.post(f"/v1/memory/cubes/{cube}/activate")
        assert http.get("/v1/memory/activation").status_code == 403
    assert for_all_people.status_code == 403
    assert too_long.status_code == 422
    assert "tokens" in too_long.json()["error"]["message"]
    with server.http(keys.kv_admin) as http:
        assert http.get("/v1/memory/activation").status_code == 403
    with server.http(keys.operator) as http:
        tiers = http.get("/v1/memory/activation").json()["tiers"]
    assert [tier["name"] for tier in tiers] == ["ram", "disk"]


def test_kv_of_a_conversation_is_saved_for_its_person_only(server, keys):
    history = [
        {"role": "user", "content": "Remember these. " + " ".join(RULES[:15])},
        {"role": "assistant", "content": "I will."},
        {"role": "user", "content": "How many rules were there?"},
    ]
    reply = chat(server, keys.kv, "kv-hal", "", messages=history)
    plan = explain(server, reply, "kv-hal", keys.kv_admin)
    assert [segment["shared"] for segment in plan["kv"]["segments"]] == [False]
    other = chat(server, keys.kv, "kv-ida", "", messages=history)
    assert cached_tokens(other) == 0
    for unwritten in ({"memory": {"write": False}}, {"store": False}):
        reply = chat(server, keys.kv, "kv-kim", "", messages=history, **unwritten)
        assert explain(server, reply, "kv-kim", keys.kv)["kv"]["segments"] == []


def test_recently_used_segments_return_to_shared_memory_after_a_turn(server, keys):
    cube = make(server, "habit", "Habit. " + " ".join(RULES[:15]), keys.kv_admin)
    ask(server, "kv-h1", cube, keys.kv)
    wait_for(lambda: chains(server, keys.kv, cube), "its KV")
    own = contexts_of(server, cube)

    def in_memory() -> bool:
        return all(any(name in str(path) for path in in_ram(server)) for name in own)

    wait_for(in_memory, "its copy")
    for path in in_ram(server):
        path.unlink()
    # The engine holds the blocks, so nothing is loaded: the prefetch makes the copy.
    ask(server, "kv-h1", cube, keys.kv)
    wait_for(in_memory, "the prefetched copy")


def test_attention_waits_for_its_layer_in_this_engine(server, keys):
    cube = make(server, "layers", "Layers. " + " ".join(RULES[:15]), keys.kv_admin)
    ask(server, "kv-w1", cube, keys.kv)
    wait_for(lambda: chains(server, keys.kv, cube), "its KV")
    assert served(ask(server, "kv-w2", cube, keys.kv)) == ["exact"]
    assert "attention did not wait" not in server.log()


def test_kv_of_a_used_prefix_is_rebuilt_when_its_cube_changes(server, keys):
    cube = make(server, "living", "Living. " + " ".join(RULES[:12]), keys.kv_admin)
    for person in ("kv-p1", "kv-p2", "kv-p3"):
        ask(server, person, cube, keys.kv)
    wait_for(lambda: chains(server, keys.kv, cube), "its KV")
    text = "Living on. " + " ".join(RULES[5:17])
    with server.http(keys.kv_admin) as http:
        patch = {"payload": {"type": "explicit", "format": "text", "content": text}}
        assert http.patch(f"/v1/memory/cubes/{cube}", json=patch).status_code == 200
    wait_for(lambda: chains(server, keys.kv, cube), "KV of the new text, without a question")
    reply = ask(server, "kv-p4", cube, keys.kv)
    assert served(reply) == ["exact"]
    assert cached_tokens(reply) > 200
