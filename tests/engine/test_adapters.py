"""Parametric cubes on a running engine: attachment, isolation, new versions, merging, deletion."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from memos_vllm.config.load import load_config
from memos_vllm.cube.ids import PersonId, TenantId
from memos_vllm.cube.model import NewCube, NewMeta, ParametricPayload, Placement
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.system import MemorySystem
from tests.adapters import config_of, content_of, small, tensors_of
from tests.engine.adapters import QUESTION, train
from tests.engine.conftest import Keys
from tests.engine.harness import MODEL, Server, wait_for

Q = "model.layers.0.self_attn.q_proj"
ANN, BOB, SHARED = "ZEBRA-42", "MANGO-17", "OTTER-99"


@pytest.fixture(scope="session")
def adapters(homes) -> list[dict[str, Any]]:
    """Contents of three trained adapters: Ann's, Bob's, the tenant's."""
    return train(homes / "trained", [f"The vault code is {each}." for each in (ANN, BOB, SHARED)])


def stored(http: httpx.Client, content: dict[str, Any], **meta: Any) -> dict[str, Any]:
    payload = {"type": "parametric", "format": "lora", "content": content}
    reply = http.post("/v1/memory/cubes", json={"meta": meta, "payload": payload})
    assert reply.status_code == 201, reply.text
    made: dict[str, Any] = reply.json()
    return made


@pytest.fixture(scope="module")
def cubes(server: Server, keys: Keys, adapters) -> Iterator[dict[str, dict[str, Any]]]:
    ann, bob = server.http(keys.lora, "ann"), server.http(keys.lora, "bob")
    admin = server.http(keys.lora_admin)
    made = {
        "ann": stored(ann, adapters[0], name="mine"),
        "bob": stored(bob, adapters[1], name="mine"),
        "shared": stored(admin, adapters[2], name="house", shared=True),
    }
    yield made
    for cube in made.values():
        admin.delete(f"/v1/memory/cubes/{cube['meta']['id']}")


def asked(http: httpx.Client, question: str = QUESTION, **body: Any) -> httpx.Response:
    sent = {
        "model": MODEL,
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": 16,
        **body,
    }
    sent["memory"] = {"retrieve": False, "write": False, **body.get("memory", {})}
    return http.post("/v1/chat/completions", json=sent)


def said(reply: httpx.Response) -> str:
    assert reply.status_code == 200, reply.text
    text: str = reply.json()["choices"][0]["message"]["content"]
    return text


def test_an_adapter_answers_with_nothing_in_the_prompt(server, keys, cubes):
    http = server.http(keys.lora, "ann")
    reply = asked(http, memory={"adapter": "mine"})
    assert ANN in said(reply)
    memory = reply.json()["memory"]
    assert memory["injected_tokens"] == 0
    assert [(c["id"], c["form"], c["kind"]) for c in memory["cubes"]] == [
        (cubes["ann"]["meta"]["id"], "adapter", "parametric")
    ]
    assert ANN not in said(asked(http))
    assert ANN not in said(asked(http, memory={"adapter": False}))


def test_an_adapter_is_a_model_name_for_its_readers(server, keys, cubes):
    http = server.http(keys.lora, "ann")
    assert ANN in said(asked(http, model="mine"))
    assert SHARED in said(asked(http, model="house"))
    assert ANN in said(asked(http, model=cubes["ann"]["meta"]["id"], memory={"enabled": False}))
    assert BOB in said(asked(server.http(keys.lora, "bob"), model="mine"))


def test_a_reply_names_the_requested_model(server, keys, cubes):
    ann = server.http(keys.lora, "ann")
    assert asked(ann, model="mine").json()["model"] == "mine"
    assert asked(ann).json()["model"] == MODEL
    body = {"model": "mine", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
    with ann.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as reply:
        lines = [line for line in reply.iter_lines() if line.startswith("data: {")]
    assert {json.loads(line.removeprefix("data: "))["model"] for line in lines} == {"mine"}


def test_other_routes_attach_adapters(server, keys, cubes):
    http = server.http(keys.lora, "ann")
    prompt = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    body = {"model": "mine", "prompt": prompt, "max_tokens": 16, "temperature": 0, "user": "ann"}
    reply = http.post("/v1/completions", json=body)
    assert "vault code" in reply.json()["choices"][0]["text"], reply.text
    reply = http.post("/v1/completions", json={**body, "model": "no-such-adapter"})
    assert reply.status_code == 404


def test_models_lists_readable_adapters_without_paths(server, keys, cubes):
    def listed(key: str, person: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = server.http(key, person).get("/v1/models").json()["data"]
        return found

    assert {card["id"] for card in listed(keys.lora, "ann")} == {MODEL, "mine", "house"}
    assert {card["id"] for card in listed(keys.lora, "eve")} == {MODEL, "house"}
    assert {card["id"] for card in listed(keys.globex, "ann")} == {MODEL}
    assert all("/" not in (c["root"] or "") for c in listed(keys.lora, "ann") if c["parent"])


def test_unknown_and_forbidden_adapters_give_the_same_error(server, keys, cubes):
    eve, other = server.http(keys.lora, "eve"), server.http(keys.globex, "ann")
    hidden = cubes["ann"]["meta"]["id"]
    for http in (eve, other):
        for how in (lambda ref: {"model": ref}, lambda ref: {"memory": {"adapter": ref}}):
            replies = [asked(http, **how(ref)) for ref in (hidden, "cube_" + "0" * 26)]
            assert [reply.status_code for reply in replies] == [404, 404]
            texts = [
                reply.text.replace(hidden, "X").replace("cube_" + "0" * 26, "X")
                for reply in replies
            ]
            assert texts[0] == texts[1]
    served = "cube@" + cubes["ann"]["payload"]["content"]["adapter"]
    assert asked(eve, model=served).status_code == 404


def test_an_incompatible_adapter_is_refused_before_the_engine_sees_it(server, keys):
    http = server.http(keys.lora, "ann")

    def refused(content: dict[str, Any]) -> str:
        payload = {"type": "parametric", "format": "lora", "content": content}
        reply = http.post("/v1/memory/cubes", json={"payload": payload})
        assert reply.status_code == 422, reply.text
        message: str = reply.json()["error"]["message"]
        return message

    assert "another model" in refused(small())
    assert "--max-lora-rank 8" in refused(
        content_of(tensors_of({Q: (576, 576)}, rank=64), config_of(64))
    )
    lm_head = content_of(tensors_of({"lm_head": (49152, 576)}), config_of(targets=["lm_head"]))
    assert "lm_head" in refused(lm_head)
    assert asked(http).status_code == 200


def test_concurrent_requests_get_their_own_adapters(server, keys, cubes):
    """200 requests at once, with Ann's, Bob's, the tenant's adapter or none."""
    ways = [("ann", "mine", ANN), ("bob", "mine", BOB), ("eve", "house", SHARED), ("eve", None, "")]

    def one(number: int) -> tuple[str, str]:
        person, adapter, code = ways[number % 4]
        with server.http(keys.lora, person) as http:
            memory = {"adapter": adapter} if adapter else {}
            return code, said(asked(http, memory=memory))

    with ThreadPoolExecutor(40) as pool:
        replies = list(pool.map(one, range(200)))
    for code, text in replies:
        found = {each for each in (ANN, BOB, SHARED) if each in text}
        assert found == ({code} if code else set()), text


def test_adapters_are_merged_in_the_background_and_a_merge_is_deleted_with_a_source(
    server, keys, adapters
):
    http = server.http(keys.lora, "meg")
    code = {"name": "code", "payload": adapters[0]}
    other = {"name": "other", "payload": content_of(tensors_of({Q: (576, 576)}), config_of())}
    for cube in (code, other):
        stored(http, cube["payload"], name=cube["name"])

    def decided() -> dict[str, tuple[str, str]]:
        reply = asked(http, memory={"cubes": ["code", "other"]})
        assert ANN in said(reply)
        where = reply.json()["memory"]["explain"]
        plan = wait_for(lambda: (r := http.get(where)).status_code == 200 and r.json(), "the plan")
        entries = plan["entries"]
        return {e["name"]: (e["decision"], e["reason"]) for e in entries}

    assert decided()["code"][0] == "used", "the best alone, until the others are merged with it"
    merged = wait_for(lambda: (d := decided())["other"][0] == "used" and d, "the merged adapter")
    assert merged == {
        "code": ("used", "merged with other"),
        "other": ("used", "merged with code"),
    }
    folder = server.home / "adapters"
    made = [p for p in folder.iterdir() if (p / "merged_from.json").exists()]
    assert len(made) == 1
    http.delete("/v1/memory/cubes/other").raise_for_status()
    assert not made[0].exists()
    http.delete("/v1/memory/cubes/code").raise_for_status()


def test_a_stable_adapter_is_always_attached(server, keys, adapters):
    http = server.http(keys.lora, "pat")
    cube = stored(http, adapters[1], placement="stable")
    try:
        assert BOB in said(asked(http))
        assert BOB not in said(asked(http, memory={"adapter": False}))
        assert BOB not in said(asked(server.http(keys.lora, "eve")))
    finally:
        http.delete(f"/v1/memory/cubes/{cube['meta']['id']}")


def test_the_next_request_uses_a_new_version_and_a_rollback_restores_the_old_one(
    server, keys, adapters
):
    http = server.http(keys.lora, "vic")
    first = stored(http, adapters[0], name="v")
    try:
        assert ANN in said(asked(http, model="v"))
        payload = {"type": "parametric", "format": "lora", "content": adapters[2]}
        http.patch("/v1/memory/cubes/v", json={"payload": payload}).raise_for_status()
        assert SHARED in said(asked(http, model="v"))
        back = {"version": first["meta"]["version"]}
        http.post("/v1/memory/cubes/v/rollback", json=back).raise_for_status()
        assert ANN in said(asked(http, model="v"))
    finally:
        http.delete("/v1/memory/cubes/v")


def own(content: dict[str, Any], alpha: float) -> dict[str, Any]:
    """An adapter whose folder no other cube shares."""
    return {**content, "adapter_config": {**content["adapter_config"], "lora_alpha": alpha}}


def folders(server: Server) -> set[str]:
    return {path.name for path in (server.home / "adapters").iterdir()}


def test_files_of_a_deleted_adapter_are_removed_when_its_last_stream_ends(server, keys, adapters):
    http = server.http(keys.lora, "sue")
    stored(http, own(adapters[0], 16.5), name="s")
    before = folders(server)
    body = {
        "model": "s",
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "max_tokens": 300,
        "ignore_eos": True,
        "stream": True,
        "memory": {"write": False},
    }
    with http.stream("POST", "/v1/chat/completions", json=body) as reply:
        lines = reply.iter_lines()
        text = next(lines)
        (made,) = folders(server) - before
        with server.http(keys.lora, "sue") as other:
            other.delete("/v1/memory/cubes/s").raise_for_status()
        assert made in folders(server), "the engine may still read it"
        text += "".join(lines)
    assert "data: [DONE]" in text
    assert "error" not in text
    wait_for(lambda: made not in folders(server), "the removal of its files")
    assert asked(http, model="s").status_code == 404


def test_nothing_of_a_deleted_adapter_stays_on_disk(server, keys, adapters):
    http = server.http(keys.lora, "dee")
    before = folders(server)
    cube = stored(http, own(adapters[0], 15.5), name="d")
    assert ANN in said(asked(http, model="d"))
    assert len(folders(server) - before) == 1
    payloads = server.home / "payloads"
    assert list(payloads.rglob(f"{cube['meta']['id']}/*"))
    http.delete("/v1/memory/cubes/d").raise_for_status()
    assert folders(server) == before
    assert not list(payloads.rglob(f"{cube['meta']['id']}/*"))


def test_a_pinned_adapter_stays_in_memory_and_leaves_every_slot_to_others(server, keys, adapters):
    admin, tia = server.http(keys.lora_admin), server.http(keys.lora, "tia")
    first = stored(admin, own(adapters[2], 12.5), name="kept", shared=True)["meta"]["id"]
    second = stored(admin, own(adapters[2], 12.75), name="too-many", shared=True)["meta"]["id"]
    try:
        path = f"/v1/memory/cubes/{first}/activate"
        assert tia.post(path, json={"pinned": True}).status_code == 403
        before = folders(server)
        loaded = admin.post(path, json={"pinned": True})
        assert loaded.status_code == 200, loaded.text
        (folder,) = folders(server) - before
        refused = admin.post(f"/v1/memory/cubes/{second}/activate", json={"pinned": True})
        assert refused.status_code == 422
        assert "--max-cpu-loras" in refused.json()["error"]["message"]
        names = [f"n{number}" for number in range(5)]
        for number, name in enumerate(names):
            stored(tia, own(adapters[0], 11 + number / 8), name=name)
        with ThreadPoolExecutor(5) as pool:  # more than there is room for, in steps of three
            replies = list(pool.map(lambda name: said(asked(tia, model=name)), names))
        assert all(ANN in reply for reply in replies)
        # Resident in memory: its file is not needed.
        weights = server.home / "adapters" / folder / "adapter_model.safetensors"
        away = weights.rename(weights.with_suffix(".away"))
        try:
            assert SHARED in said(asked(tia, model="kept"))
        finally:
            away.rename(weights)
        assert admin.post(path, json={"pinned": False}).status_code == 200
        assert admin.post(f"/v1/memory/cubes/{second}/activate", json={"pinned": True}).is_success
    finally:
        for name in (first, second):
            admin.delete(f"/v1/memory/cubes/{name}")
        for number in range(5):
            tia.delete(f"/v1/memory/cubes/n{number}")


def test_an_incompatible_stable_adapter_is_left_out_and_fails_no_chat(server, keys):
    """Stored without an engine that could check it."""
    system = MemorySystem(load_config(overrides={"home": str(server.home)})).open()
    kit = Principal(TenantId("umbrella"), Role.WRITER, "", PersonId("kit"))
    payload = ParametricPayload(content=small())
    meta = NewMeta(name="misfit", placement=Placement.STABLE)
    system.create(kit, [NewCube(meta=meta, payload=payload)])
    system.close()
    http = server.http(keys.lora, "kit")
    reply = asked(http)
    assert said(reply)
    assert reply.headers["x-memos-degraded"] == "adapter"
    assert reply.json()["memory"]["cubes"] == []
    refused = asked(http, memory={"adapter": "misfit"})
    assert refused.status_code == 422
    assert "another model" in refused.json()["error"]["message"]
    http.delete("/v1/memory/cubes/misfit").raise_for_status()


def test_kv_of_the_base_model_and_of_adapters_is_not_exchanged(server, keys, cubes):
    admin = server.http(keys.lora_admin)
    text = " ".join(f"Shelf {n} of the archive holds file {7 * n}." for n in range(60))
    body = {
        "meta": {"name": "archive", "shared": True},
        "payload": {"type": "explicit", "format": "text", "content": text},
    }
    admin.post("/v1/memory/cubes", json=body).raise_for_status()
    question = "Which file does shelf 9 hold?"

    def cached(person: str, adapter: Any) -> int:
        memory = {"cubes": ["archive"], "adapter": adapter}
        reply = asked(server.http(keys.lora, person), question, memory=memory, max_tokens=2)
        said(reply)
        tokens: int = reply.json()["memory"]["cached_tokens"]
        return tokens

    try:
        people = map(
            str, itertools.count()
        )  # new ones: the engine's prefix cache holds nothing of theirs
        assert cached(next(people), False) == 0
        wait_for(lambda: cached(next(people), False) > 500, "the base model's saved KV")
        assert cached(next(people), "house") == 0, "it is not used for the adapter"
        wait_for(lambda: cached(next(people), "house") > 500, "the adapter's saved KV")
        assert cached("ann", "mine") == 0, "nor from one adapter to another"
        assert cached("bob", "mine") == 0
    finally:
        admin.delete("/v1/memory/cubes/archive")
