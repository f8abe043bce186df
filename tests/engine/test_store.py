"""A bundle on a running server: installed over HTTP, in prompts when approved, fast at its first question."""

from __future__ import annotations

import pytest

from memos_vllm.cube.model import CubePatch, Placement
from memos_vllm.parametric.training.order import Question
from memos_vllm.system import MemorySystem
from tests.bundles import NAME, PUBLISHER, Bundler
from tests.conftest import make_config
from tests.engine.adapters import QUESTION as CODE_QUESTION
from tests.engine.adapters import train
from tests.engine.conftest import LORA
from tests.engine.harness import Server, cached_tokens, chat, wait_for
from tests.engine.kv import QUESTION, RULES

CODE, LEARNT = "PELICAN-77", "learnt"
OTHER = "Which rule is the last one?"


@pytest.fixture(scope="module")
def bundler(tmp_path_factory):
    folder = tmp_path_factory.mktemp("publisher")
    system = MemorySystem(make_config(folder)).open()
    made = Bundler(system, folder)
    made.cubes({"rules": [" ".join(RULES)]})
    system.update(PUBLISHER, "rules", CubePatch(placement=Placement.STABLE))
    made.publish(contents={"rules": [" ".join(RULES)]})
    (adapter,) = train(folder, [CODE])
    made.cubes({"code": adapter})
    system.update(PUBLISHER, "code", CubePatch(placement=Placement.STABLE))
    exam = [Question(question=CODE_QUESTION, answer=CODE)]
    made.publish(contents={"code": adapter}, name=LEARNT, exams={"code": exam})
    yield made
    system.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory, bundler):
    folder = tmp_path_factory.mktemp("store")
    environment = {"MEMOS__STORE__REGISTRIES": f'{{"team": "{bundler.folder}"}}'}
    server = Server(folder, home=folder / "home", environment=environment, flags=LORA)
    with server.running() as running:
        yield running


def ask(server, person, question=QUESTION):
    return chat(server, "none", person, question, memory={"write": False})


def test_a_bundle_is_in_prompts_from_its_approval_to_its_end(server, bundler):
    assert ask(server, "alice").memory["cubes"] == []
    with server.http() as http:
        store = "/v1/memory/store"
        wanted = {"name": NAME, "publisher": bundler.key.public.fingerprint}
        assert http.post(f"{store}/bundles", json={"name": NAME}).status_code == 403
        made = http.post(f"{store}/bundles", json=wanted)
        assert made.status_code == 201, made.text
        assert ask(server, "alice").memory["cubes"] == [], "it is quarantined"
        server.memos("store", "approve", NAME)  # another process, which has no engine
        cube = made.json()["bundle"]["cubes"]["rules"]
        wait_for(
            lambda: http.get(f"/v1/memory/cubes/{cube}/activation").json()["chains"],
            "the KV of the bundle",
        )
        first = ask(server, "alice")
        assert [each["id"] for each in first.memory["cubes"]] == [cube]
        assert cached_tokens(first) > 0.8 * first.memory["injected_tokens"], "not computed again"
        ask(server, "bob", OTHER)

        def counted():
            usage = http.get(f"{store}/usage").json()["usage"]
            return usage and usage[0]["requests"] == 2 and usage[0]

        row = wait_for(counted, "the metering")
        assert (row["bundle"], row["version"]) == (NAME, "1.0.0")
        assert row["tokens"] >= 2 * first.memory["injected_tokens"] * 0.9
        listed = http.get(f"{store}/usage", params={"format": "csv"}).text.splitlines()
        assert listed[0] == "bundle,version,day,requests,tokens"
        receipt = http.delete(f"{store}/bundles/{NAME}").json()
        assert receipt["complete"], receipt
        held = {each["store"]: each["before"] for each in receipt["stores"]}
        assert held["kv"] > 0
        assert ask(server, "alice").memory["cubes"] == []
        assert http.post(f"{store}/bundles", json=wanted).status_code == 201


def test_an_adapter_is_attached_once_it_has_passed_here_or_is_trusted(server, bundler):
    """It was trained on one answer, without care for anything else: the gate refuses it."""
    with server.http() as http:
        store = "/v1/memory/store/bundles"
        wanted = {"name": LEARNT, "publisher": bundler.key.public.fingerprint}
        made = http.post(store, json=wanted)
        assert made.status_code == 201, made.text
        assert made.json()["bundle"]["adapters"]["code"]["outcome"] == "waiting"
        assert http.post(f"{store}/{LEARNT}/approve", json={}).status_code == 200

        def examined():
            gate = http.get(f"{store}/{LEARNT}").json()["adapters"]["code"]
            return gate["outcome"] != "waiting" and gate

        gate = wait_for(examined, "the exam", seconds=300)
        assert gate["outcome"] == "refused", gate
        assert "forgetting" in gate["reasons"][0]
        assert gate["recall"]["adapter"] == 1.0
        assert gate["recall"]["floor"] == 0.0
        assert CODE not in ask(server, "alice", CODE_QUESTION).choices[0].message.content
        trusted = http.post(f"{store}/{LEARNT}/approve", json={"trust_adapters": True})
        assert trusted.json()["adapters"]["code"]["outcome"] == "trusted"
        assert CODE in ask(server, "alice", CODE_QUESTION).choices[0].message.content
        assert http.delete(f"{store}/{LEARNT}").json()["complete"]
