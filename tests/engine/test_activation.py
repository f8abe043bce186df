"""KV that outlives its request: whose it is, where it comes from, when it is approximate."""

from __future__ import annotations

import time
from typing import Any

import pytest

from memos_vllm.activation.files import SegmentReader
from memos_vllm.activation.quality import Quality, QualityNotes
from tests.engine.harness import Server, cached_tokens, chat, wait_for
from tests.engine.kv import (
    QUESTION,
    RULES,
    ask,
    chains,
    explain,
    make,
    segments,
    served,
    text_of,
)

# -- sharing, on the server that everything else runs on ---------------------------------------------


def test_a_shared_cube_is_computed_once_for_all_people_of_a_tenant(server, keys):
    text = " ".join(RULES)
    cube = make(server, "rules", text, keys.kv_admin)
    make(server, "rules", text, keys.kv_other, as_person="gus", person="gus")
    first = ask(server, "kv-ann", cube, keys.kv)
    assert cached_tokens(first) == 0
    tokens = first.usage.prompt_tokens
    wait_for(
        lambda: (
            explain(server, reply := ask(server, "kv-bea", cube, keys.kv), "kv-bea", keys.kv)
            and cached_tokens(reply)
        ),
        "KV of the cube",
    )
    second = ask(server, "kv-cid", cube, keys.kv)
    assert tokens - cached_tokens(second) < 40, "only the question is computed"
    assert text_of(second) == text_of(first)
    assert second.memory["cubes"][0]["form"] == "kv"
    assert first.memory["cubes"][0]["form"] == "text"
    stranger = ask(server, "gus", "rules", keys.kv_other)
    assert cached_tokens(stranger) == 0, "the same words in another tenant are computed there"
    assert text_of(stranger) == text_of(first)


def test_a_person_s_own_cube_serves_nobody_else(server, keys):
    text = "My diary. " + " ".join(RULES[:20])
    for person in ("kv-dora", "kv-emil"):
        make(server, "diary", text, keys.kv, as_person=person, person=person)
    first = ask(server, "kv-dora", "diary", keys.kv)
    plan = explain(server, first, "kv-dora", keys.kv)
    assert [segment["shared"] for segment in plan["kv"]["segments"]][-1] is False
    time.sleep(2)  # whatever was going to be kept is kept by now
    assert cached_tokens(ask(server, "kv-dora", "diary", keys.kv)) > 300
    other = ask(server, "kv-emil", "diary", keys.kv)
    assert cached_tokens(other) == 0
    assert text_of(other) == text_of(first)


def test_a_system_message_is_a_person_s_until_several_have_sent_it(server, keys):
    cube = make(server, "tone", " ".join(RULES[:20]), keys.kv_admin)
    system = {"role": "system", "content": "You answer in one short sentence."}
    messages = [system, {"role": "user", "content": QUESTION}]
    shared = []
    for person in ("kv-f1", "kv-f2", "kv-f3", "kv-f4"):
        reply = ask(server, person, cube, keys.kv, messages=messages)
        plan = explain(server, reply, person, keys.kv)
        shared.append(plan["kv"]["segments"][-1]["shared"])
        wait_for(lambda: True, "a moment")
        time.sleep(1)
        last = reply
    assert shared == [False, False, True, True]
    assert cached_tokens(last) > 300


def test_what_else_stands_in_front_of_memory_is_a_person_s_too(server, keys):
    """An earlier message came with the request, and may name one person."""
    cube = make(server, "front", "Front. " + " ".join(RULES[:8]), keys.kv_admin)
    earlier = [
        {"role": "assistant", "content": "Hello Alice, how is your knee?"},
        {"role": "user", "content": QUESTION},
    ]
    shared = []
    for extra in ({"messages": earlier}, {}):
        reply = ask(server, "kv-front", cube, keys.kv, **extra)
        plan = explain(server, reply, "kv-front", keys.kv)
        shared.append([segment["shared"] for segment in plan["kv"]["segments"]])
    assert shared == [[False, False], [True, True]]


def test_none_neither_loads_nor_keeps(server, keys):
    cube = make(server, "unkept", "Unkept. " + " ".join(RULES[:10]), keys.kv_admin)
    for person in ("kv-g1", "kv-g2"):
        reply = ask(server, person, cube, keys.kv, memory={"kv": "none"})
        assert cached_tokens(reply) == 0
        time.sleep(1)


def test_an_activated_cube_is_there_for_the_first_question(server, keys):
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


def test_activating_is_guarded_and_says_what_does_not_work(server, keys):
    cube = make(server, "long", " ".join(RULES) * 2, keys.kv_admin)
    with server.http(keys.kv_other) as http:
        assert http.post(f"/v1/memory/cubes/{cube}/activate").status_code == 404
    with server.http(keys.kv_reader) as http:
        assert http.post(f"/v1/memory/cubes/{cube}/activate").status_code == 403
    with server.http(keys.kv) as http:
        speaking_for_all = http.post(f"/v1/memory/cubes/{cube}/activate", json={"system": "Hi."})
        too_long = http.post(f"/v1/memory/cubes/{cube}/activate")
        assert http.get("/v1/memory/activation").status_code == 403
    assert speaking_for_all.status_code == 403
    assert too_long.status_code == 422
    assert "tokens" in too_long.json()["error"]["message"]
    with server.http(keys.kv_admin) as http:
        assert http.get("/v1/memory/activation").status_code == 403
    with server.http(keys.operator) as http:
        tiers = http.get("/v1/memory/activation").json()["tiers"]
    assert [tier["name"] for tier in tiers] == ["ram", "disk"]


def test_a_conversation_s_history_is_kept_for_its_person(server, keys):
    history = [
        {"role": "user", "content": "Remember these. " + " ".join(RULES[:15])},
        {"role": "assistant", "content": "I will."},
        {"role": "user", "content": "How many rules were there?"},
    ]
    reply = chat(server, keys.kv, "kv-hal", "", messages=history)
    plan = explain(server, reply, "kv-hal", keys.kv)
    assert [segment["shared"] for segment in plan["kv"]["segments"]] == [False]
    other = chat(server, keys.kv, "kv-ida", "", messages=history)
    assert cached_tokens(other) == 0
    for unwritten in ({"memory": {"write": False}}, {"store": False}):
        reply = chat(server, keys.kv, "kv-kim", "", messages=history, **unwritten)
        assert explain(server, reply, "kv-kim", keys.kv)["kv"]["segments"] == []


def test_what_loading_spared_is_counted(server, keys):
    def shown() -> dict[str, Any]:
        with server.http(keys.operator) as http:
            return http.get("/v1/memory/activation").json()

    def use() -> dict[str, Any]:
        return shown()["use"]

    cube = make(server, "spared", "Spared. " + " ".join(RULES), keys.kv_admin)
    ask(server, "kv-u1", cube, keys.kv)
    wait_for(lambda: chains(server, keys.kv, cube), "its KV")
    before = use()
    loaded = cached_tokens(ask(server, "kv-u2", cube, keys.kv))
    after = wait_for(lambda: (u := use())["hits"] > before["hits"] and u, "the count")
    tokens = [u["loaded_tokens_ram"] + u["loaded_tokens_disk"] for u in (before, after)]
    assert tokens[1] - tokens[0] == loaded > 300
    speed = after["tokens_per_second"]
    assert speed["ram"] > speed["prefill"] > 0
    assert speed["disk"] > 0
    assert after["saved_prefill_seconds"] > before["saved_prefill_seconds"]
    assert all(tier["bytes"] > 0 for tier in shown()["tiers"])


# -- near --------------------------------------------------------------------------------------------


def near(server: Server, key: str, person: str, cubes: list[str], kv: str = "near") -> Any:
    memory = {"cubes": cubes, "retrieve": False, "write": False, "kv": kv}
    return chat(server, key, person, QUESTION, memory=memory, logprobs=True, top_logprobs=20)


def distance(one: Any, other: Any) -> float:
    """Largest difference of the first token's log-probabilities, over tokens that both list."""
    left, right = (
        {top.token: top.logprob for top in reply.choices[0].logprobs.content[0].top_logprobs}
        for reply in (one, other)
    )
    return max(abs(left[token] - right[token]) for token in left.keys() & right.keys())


def contexts_of(server: Server, cube: str) -> list[str]:
    """Names of the segments that hold this cube's own KV."""
    found = []
    for path in segments(server):
        with SegmentReader(path) as reader:
            if reader.metadata["cubes"].rpartition(" ")[2].startswith(cube):
                found.append(str(path.relative_to(server.home / "kv" / "segments").with_suffix("")))
    return found


def qualities(server: Server, cube: str) -> list[Quality]:
    notes = QualityNotes(server.home / "kv" / "quality")
    names = [path.name.replace("+", "/") for path in notes.folder.iterdir()]
    return [known for name in names if (known := notes.read(name)) and known.cube == cube]


def note_quality(server: Server, name: str, quality: Quality) -> None:
    QualityNotes(server.home / "kv" / "quality").write(name, quality)


@pytest.fixture(scope="module")
def trio(server, keys) -> list[str]:
    """Three shared cubes, each with KV of some context: A, B behind A, C behind A."""
    cubes = [
        make(server, f"trio-{i}", f"Trio {i}. " + " ".join(RULES[i::3]), keys.kv_admin)
        for i in range(3)
    ]
    for last in cubes[1:]:
        near(server, keys.kv, "kv-trio", [cubes[0], last], kv="exact")
        wait_for(lambda last=last: chains(server, keys.kv, last), "its KV")
    return cubes


def test_near_puts_cubes_together_in_any_order_and_heals(server, keys, trio):
    a, b, c = trio
    full = near(server, keys.kv, "kv-n1", [c, a, b], kv="none")
    first = near(server, keys.kv, "kv-n2", [c, a, b])
    assert served(first) == ["near", "near", "near"]
    assert [cube["context"] for cube in first.memory["cubes"]] == [
        "behind other text",
        "behind other text",
        "behind the same cube",
    ]
    assert cached_tokens(first) > 300
    assert distance(full, first) < 3, "approximate, and not noise"
    healed = wait_for(
        lambda: (
            (reply := near(server, keys.kv, "kv-n2", [c, a, b]))
            and served(reply) == ["exact"] * 3
            and reply
        ),
        "the exact chain",
    )
    assert distance(full, healed) < 0.2


def test_what_near_costs_is_measured_shown_and_bounded(server, keys):
    a, b, c = [
        make(server, f"guard-{i}", f"Guard {i}. " + " ".join(RULES[i::3]), keys.kv_admin)
        for i in range(3)
    ]

    def measured() -> list[dict[str, Any]]:
        with server.http(keys.kv) as http:
            return http.get(f"/v1/memory/cubes/{b}/activation").json()["near"]

    near(server, keys.kv, "kv-guard", [a, b], kv="exact")
    near(server, keys.kv, "kv-guard", [a, c], kv="exact")
    for cube in (b, c):
        wait_for(lambda cube=cube: chains(server, keys.kv, cube), "its KV")
    first = near(server, keys.kv, "kv-guard", [a, c, b])
    assert served(first) == ["exact", "exact", "near"]
    assert first.memory["cubes"][2]["expected_kl"] is None, "its context was never measured"
    (found,) = wait_for(measured, "probes")
    wait_for(lambda: measured()[0]["probes"] >= 3, "all probes")
    assert found["behind"] == 1
    assert 0 < found["kl"] < 5
    assert found["used"] == (found["kl"] <= 0.25)
    with server.http(keys.kv) as http:
        usage = http.get(f"/v1/memory/cubes/{b}").json()["meta"]["usage"]["kv"]
    assert usage["near_kl"] == measured()[0]["kl"]
    assert usage["chains"] >= 2

    assert contexts_of(server, b)
    for name in contexts_of(server, b):  # as if it had cost that much
        note_quality(server, name, Quality(probes=3, kl=9.0, top1=0.0, cube=b))
    refused = near(server, keys.kv, "kv-guard", [c, b])
    assert served(refused) == ["near", "prefill"]
    with server.http(keys.kv_admin) as http:
        assert http.delete(f"/v1/memory/cubes/{b}").status_code == 200
    wait_for(lambda: not qualities(server, b), "nothing that was measured of it")


def test_approximate_blocks_are_never_handed_on(server, keys, trio):
    """Plant the poison, and look for it from a plain request of the same person."""
    a, b, c = trio
    person, order = "kv-poison", [b, c, a]
    full = near(server, keys.kv, "kv-n3", order, kv="none")
    planted = near(server, keys.kv, person, order)
    assert "near" in served(planted)
    plain = near(server, keys.kv, person, order, kv="exact")
    assert distance(full, plain) < 0.2
    assert "near" not in served(plain)
    again = near(server, keys.kv, person, order, kv="none")
    assert distance(full, again) < 0.2


def test_near_looks_only_into_contexts_that_the_person_may_read(server, keys):
    """KV that was computed behind somebody's own cube, or a cube for admins, serves nobody else."""
    secret = make(server, "hidden", "Hidden. " + " ".join(RULES[:8]), keys.kv_admin)
    with server.http(keys.kv_admin) as http:
        readers = {"access": {"readers": ["kv-insider"]}}
        assert http.patch(f"/v1/memory/cubes/{secret}", json=readers).status_code == 200
    cube = make(server, "open", "Open. " + " ".join(RULES[8:20]), keys.kv_admin)
    other = make(server, "other", "Other. " + " ".join(RULES[20:28]), keys.kv_admin)
    near(server, keys.kv, "kv-insider", [secret, cube], kv="exact")
    near(server, keys.kv, "kv-outsider", [other], kv="exact")
    wait_for(lambda: chains(server, keys.kv_admin, cube), "KV behind the hidden cube")
    wait_for(lambda: chains(server, keys.kv_admin, other), "KV of the other")
    outsider = near(server, keys.kv, "kv-outsider", [other, cube])
    assert served(outsider) == ["exact", "prefill"]
    insider = near(server, keys.kv, "kv-insider", [other, cube])
    assert served(insider)[0] == "exact"
    assert served(insider)[1] in ("near", "exact")


def test_the_hottest_cube_comes_first_where_the_order_is_left_to_the_server(server, keys):
    cold, hot = (
        make(server, f"{heat}-one", f"{heat}. " + " ".join(RULES[:4]), keys.kv_admin)
        for heat in ("cold", "hot")
    )
    for _ in range(3):
        ask(server, "kv-order", hot, keys.kv)

    def order(**memory: Any) -> list[str]:
        reply = ask(server, "kv-order", cold, keys.kv, memory={"cubes": [cold, hot], **memory})
        return [cube["id"] for cube in reply.memory["cubes"]]

    assert order() == [cold, hot]
    wait_for(lambda: order(order="hottest") == [hot, cold], "the counted reads")


def test_a_used_head_is_built_again_when_its_cube_changes(server, keys):
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
