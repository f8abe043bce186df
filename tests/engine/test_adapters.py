"""Parametric cubes on the running engine: attached, told apart, changed and forgotten."""

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
    """Of Ann, of Bob, of the tenant, and of nobody yet."""
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
    told = {
        "model": MODEL,
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": 16,
        **body,
    }
    told["memory"] = {"retrieve": False, "write": False, **body.get("memory", {})}
    return http.post("/v1/chat/completions", json=told)


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


def test_it_is_a_model_by_its_name_for_whom_it_is_for(server, keys, cubes):
    http = server.http(keys.lora, "ann")
    assert ANN in said(asked(http, model="mine"))
    assert SHARED in said(asked(http, model="house"))
    assert ANN in said(asked(http, model=cubes["ann"]["meta"]["id"], memory={"enabled": False}))
    assert BOB in said(asked(server.http(keys.lora, "bob"), model="mine"))


def test_a_reply_names_the_model_that_was_asked_for(server, keys, cubes):
    ann = server.http(keys.lora, "ann")
    assert asked(ann, model="mine").json()["model"] == "mine"
    assert asked(ann).json()["model"] == MODEL
    body = {"model": "mine", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
    with ann.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as reply:
        lines = [line for line in reply.iter_lines() if line.startswith("data: {")]
    assert {json.loads(line.removeprefix("data: "))["model"] for line in lines} == {"mine"}


def test_other_routes_attach_it_too(server, keys, cubes):
    http = server.http(keys.lora, "ann")
    prompt = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    body = {"model": "mine", "prompt": prompt, "max_tokens": 16, "temperature": 0, "user": "ann"}
    reply = http.post("/v1/completions", json=body)
    assert "vault code" in reply.json()["choices"][0]["text"], reply.text
    reply = http.post("/v1/completions", json={**body, "model": "nobody-s"})
    assert reply.status_code == 404


def test_models_lists_what_one_may_use_and_no_path(server, keys, cubes):
    def listed(key: str, person: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = server.http(key, person).get("/v1/models").json()["data"]
        return found

    assert {card["id"] for card in listed(keys.lora, "ann")} == {MODEL, "mine", "house"}
    assert {card["id"] for card in listed(keys.lora, "eve")} == {MODEL, "house"}
    assert {card["id"] for card in listed(keys.globex, "ann")} == {MODEL}
    assert all("/" not in (c["root"] or "") for c in listed(keys.lora, "ann") if c["parent"])


def test_unknown_and_somebody_else_s_look_the_same(server, keys, cubes):
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


def test_what_does_not_fit_is_refused_before_the_engine_sees_it(server, keys):
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


def test_a_batch_of_many_keeps_them_apart(server, keys, cubes):
    """200 requests at once, with Ann's, Bob's, the tenant's adapter and none."""
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


def test_several_are_merged_in_the_background_and_go_with_each_of_them(server, keys, adapters):
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


def test_a_placed_adapter_is_always_on(server, keys, adapters):
    http = server.http(keys.lora, "pat")
    cube = stored(http, adapters[1], placement="stable")
    try:
        assert BOB in said(asked(http))
        assert BOB not in said(asked(http, memory={"adapter": False}))
        assert BOB not in said(asked(server.http(keys.lora, "eve")))
    finally:
        http.delete(f"/v1/memory/cubes/{cube['meta']['id']}")


def test_a_new_version_serves_the_next_request_and_an_old_one_comes_back(server, keys, adapters):
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
    """One that no other cube holds: its folder is its own."""
    return {**content, "adapter_config": {**content["adapter_config"], "lora_alpha": alpha}}


def folders(server: Server) -> set[str]:
    return {path.name for path in (server.home / "adapters").iterdir()}


def test_a_deleted_adapter_s_files_go_when_the_last_stream_with_it_ends(server, keys, adapters):
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
    wait_for(lambda: made not in folders(server), "its files going")
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


def test_a_pinned_one_stays_in_memory_and_every_slot_is_free_for_others(server, keys, adapters):
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
        # Whether it was read again cannot be seen from here: that its file is not needed can.
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


def test_one_that_does_not_fit_is_left_out_and_never_stops_a_chat(server, keys):
    """Stored where no engine could check it, and always on."""
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


def test_kv_of_the_base_model_and_of_an_adapter_never_meet(server, keys, cubes):
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
        people = map(str, itertools.count())  # so that the engine's own cache has no part in it
        assert cached(next(people), False) == 0
        wait_for(lambda: cached(next(people), False) > 500, "the base model's KV being kept")
        assert cached(next(people), "house") == 0, "nothing of it serves the adapter"
        wait_for(lambda: cached(next(people), "house") > 500, "the adapter's KV being kept")
        assert cached("ann", "mine") == 0, "nor one adapter another"
        assert cached("bob", "mine") == 0
    finally:
        admin.delete("/v1/memory/cubes/archive")
