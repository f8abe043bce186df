"""Policies of tenants: layers, the file, the API, and what each key forbids."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import time

import pytest
from fastapi.testclient import TestClient

from memos_vllm.api.app import create_app
from memos_vllm.cube.ids import now_us
from memos_vllm.cube.model import (
    Access,
    CubePatch,
    ExplicitPayload,
    Item,
    NewCube,
    NewMeta,
    Placement,
)
from memos_vllm.errors import BadRequest, ConfigError, Forbidden
from memos_vllm.governance.policies import read_file, read_layer
from memos_vllm.governance.principal import PERSONAL, Role
from memos_vllm.governance.salt import cache_salt
from memos_vllm.learning.policy import set_policy
from memos_vllm.options import MemoryOptions, with_kv
from memos_vllm.system import MemorySystem
from memos_vllm.vault.views import CubeFilter
from tests.conftest import make_config, principal
from tests.unit.conftest import ALICE
from tests.unit.test_pipeline import FakeExchange, ask, make_pipeline

ADMIN = principal("", role=Role.ADMIN)
BOB = principal("bob")


def keep(system, text, who=ALICE, **meta):
    new = NewCube(meta=NewMeta(**meta), payload=ExplicitPayload(content=[Item(text=text)]))
    return system.create(who, [new])[0]


# -- reading ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tree", "where", "says"),
    [
        ({"retentions": []}, "retentions", "did you mean `retention`?"),
        ({"retention": [{"max_dayz": 3}]}, "retention.0.max_dayz", "`retention.0.max_days`"),
        ({"redaction": {"mod": "off"}}, "redaction.mod", "`redaction.mode`"),
        ({"kinds": ["text"]}, "kinds.0", ""),
        ({"retention": [{}]}, "retention.0.max_days", ""),
        ({"retention": [{"max_days": 0}]}, "retention.0.max_days", ""),
        ({"retention": [{"max_days": float("nan")}]}, "retention.0.max_days", ""),
        ({"isolation": "none"}, "isolation", ""),
        ({"share": ["reader"]}, "share.0", ""),
        ({"default_ttl_seconds": -1}, "default_ttl_seconds", ""),
        ({"kinds": None}, "kinds", ""),
        ([], None, "must be an object"),
        ("x", None, "must be an object"),
    ],
)
def test_a_wrong_policy_is_refused_by_the_name_of_its_key(tree, where, says):
    with pytest.raises(BadRequest) as refused:
        read_layer(tree)
    assert refused.value.param == where
    assert says in refused.value.message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("defaults: {}", "did you mean `default`"),
        ("tenants: [a]", "mapping"),
        ("tenants: {acme: {kindz: []}}", "`tenants.acme.kinds`"),
        ("fixed: [redactions]", "did you mean `redaction`"),
        ("fixed: redaction", "list"),
        ("[1]", "mapping"),
        ("a: [", "YAML"),
        ("tenants: {acme: 3}", "must be an object"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path, text, says):
    path = tmp_path / "policies.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        read_file(path)
    assert says in refused.value.message
    with pytest.raises(ConfigError):
        MemorySystem(make_config(tmp_path, governance={"policies": str(path)}))
    with pytest.raises(ConfigError, match="cannot read"):
        read_file(tmp_path / "none.yaml")


# -- layers -------------------------------------------------------------------------------------------


def test_each_layer_replaces_keys_of_those_before(tmp_path):
    path = tmp_path / "policies.yaml"
    path.write_text(
        "default: {retention: [{max_days: 365}], share: []}\n"
        "tenants: {acme: {retention: [{max_days: 30}]}}\n"
        "fixed: [retention]\n"
    )
    config = make_config(tmp_path, governance={"policies": str(path), "isolation": "tenant"})
    system = MemorySystem(config).open()
    of = system.policies.policy_of
    assert [of(t).retention[0].max_days for t in ("acme", "other")] == [30, 365]
    assert (of("acme").share, of("acme").isolation) == ((), "tenant")
    set_policy(system, ADMIN, {"share": ["writer"], "isolation": "person"})
    assert (of("acme").share, of("acme").isolation) == (("writer",), "person")
    assert of("other").isolation == "tenant"
    with pytest.raises(Forbidden, match="retention"):
        set_policy(system, ADMIN, {"retention": []})
    set_policy(system, ADMIN, {"retention": [{"max_days": 30}]})
    system.close()


def test_a_changed_file_is_read_again_and_a_wrong_one_is_not(tmp_path):
    path = tmp_path / "policies.yaml"
    path.write_text("default: {expired_days: 1}")
    system = MemorySystem(make_config(tmp_path, governance={"policies": str(path)})).open()

    def write(text, number):
        path.write_text(text)
        os.utime(path, ns=(number, number))
        system.policies.refresh()
        return system.policies.policy_of("acme").expired_days

    assert system.policies.policy_of("acme").expired_days == 1
    assert write("default: {expired_days: 2}", 10**9) == 2
    assert write("default: {expired: 3}", 2 * 10**9) == 2
    assert write("default: {expired_days: 4}", 3 * 10**9) == 4
    path.unlink()
    system.policies.refresh()
    assert system.policies.policy_of("acme").expired_days == 4
    system.close()


def test_another_process_has_it_soon_and_a_restart_keeps_it(system, config):
    other = MemorySystem(config).open()
    set_policy(system, ADMIN, {"expired_days": 7})
    deadline = time.monotonic() + 20
    while other.policies.policy_of("acme").expired_days != 7 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert other.policies.policy_of("acme").expired_days == 7
    other.close()
    again = MemorySystem(config).open()
    assert again.policies.policy_of("acme").expired_days == 7
    again.close()


# -- the API ------------------------------------------------------------------------------------------


@pytest.fixture
def clients(system):
    app = create_app(system)
    secrets = {role: system.keys.create("acme", role)[1] for role in Role}
    writer = system.keys.authenticate(secrets[Role.WRITER])
    _, token = system.keys.tokens.create(writer, "alice", list(PERSONAL), 900)
    _, other = system.keys.create("other", Role.ADMIN)

    def client(secret):
        headers = {"Authorization": f"Bearer {secret}"}
        return TestClient(app, headers=headers, raise_server_exceptions=False)

    return {str(role): client(secret) for role, secret in secrets.items()} | {
        "token": client(token),
        "other": client(other),
    }


def test_only_an_admin_reads_and_sets_the_policy_of_the_tenant(system, clients):
    path = "/v1/memory/policy"
    for who in ("reader", "writer", "token"):
        assert clients[who].get(path).status_code == 403
        assert clients[who].put(path, json={}).status_code == 403
        assert clients[who].get(f"{path}/versions").status_code == 403
    assert clients["admin"].get(path).json()["own"] is None
    made = clients["admin"].put(path, json={"expired_days": 3}).json()
    assert (made["in_force"]["expired_days"], made["own"]["number"]) == (3, 1)
    clients["admin"].put(path, json={"expired_days": 4})
    versions = clients["admin"].get(f"{path}/versions").json()["versions"]
    assert [each["policy"] for each in versions] == [{"expired_days": 4}, {"expired_days": 3}]
    assert clients["other"].get(path).json()["in_force"]["expired_days"] is None
    assert clients["other"].get(f"{path}/versions").json() == {"versions": []}
    refused = clients["admin"].put(path, json={"expire_days": 3})
    assert refused.status_code == 400
    assert "did you mean `expired_days`" in refused.json()["error"]["message"]
    for bad in ([], "x", None, 3):
        assert clients["admin"].put(path, json=bad).status_code == 400
    clients["admin"].put(path, json={})
    assert clients["admin"].get(path).json()["in_force"]["expired_days"] is None
    records = [each for each in system.audit.read(ADMIN, 0, 1000) if each["action"] == "policy.set"]
    assert [each["detail"]["keys"] for each in records] == [["expired_days"], ["expired_days"], []]


# -- what it forbids ----------------------------------------------------------------------------------


def test_a_kind_that_is_not_allowed_is_neither_stored_nor_used(system, chat):
    cube = keep(system, "The boat is blue.", placement=Placement.STABLE)
    set_policy(system, ADMIN, {"kinds": ["activation"]})
    with pytest.raises(Forbidden, match="kinds"):
        keep(system, "The boat is red.")
    for change in ({"append": [Item(text="x")]}, {"payload": ExplicitPayload(content="x")}):
        with pytest.raises(Forbidden, match="kinds"):
            system.update(ALICE, cube.meta.id, CubePatch(**change))
    with pytest.raises(Forbidden, match="kinds"):
        system.rollback(ALICE, cube.meta.id, cube.meta.version)
    assert system.views.recall(ALICE, [cube.items[0].id]) == {}
    assert system.views.stable(ALICE, []).texts == []
    assert system.search(ALICE, "boat", None, 5).found == []
    plan, messages = ask(make_pipeline(system), "Which colour has the boat?")
    assert messages is None
    assert "kinds" in plan.not_written
    chat("My cat is called Miso.")
    assert system.turns.waiting() == []
    assert len(system.views.page(ALICE, CubeFilter())[0]) == 1
    other = principal("alice", tenant="other")
    assert keep(system, "Theirs.", who=other)
    set_policy(system, ADMIN, {})
    assert system.search(ALICE, "boat", None, 5).found


def test_a_request_that_names_its_kv_gets_it():
    assert with_kv(MemoryOptions(kv="exact"), "compact").kv == "exact"
    assert with_kv(MemoryOptions(), "compact").kv == "compact"
    assert with_kv(MemoryOptions(kv="compact"), None).kv == "none"


def test_without_activation_no_kv_is_used(system):
    keep(system, "The boat is blue.")
    kv = {}

    class Watching(FakeExchange):
        async def order_kv(self, chat, messages):
            kv[len(kv)] = chat.options.kv

    pipeline = make_pipeline(system)
    ask(pipeline, "The boat?", Watching())
    set_policy(system, ADMIN, {"kinds": ["plaintext"]})
    ask(pipeline, "The boat?", Watching())
    set_policy(system, ADMIN, {"kv": "compact"})
    ask(pipeline, "The boat?", Watching())
    assert list(kv.values()) == ["exact", "none", "compact"]
    set_policy(system, ADMIN, {"kinds": ["plaintext"]})
    with pytest.raises(Forbidden, match="activation"):
        system.policies.require("acme", "activation")


def test_redaction_of_a_tenant(system):
    set_policy(system, ADMIN, {"redaction": {"mode": "remove", "kinds": ["email"]}})
    mail = "Write to ann@example.org, please."
    assert "ann@" not in keep(system, mail).items[0].text
    assert "ann@" in keep(system, mail, who=principal("alice", tenant="other")).items[0].text


def test_who_may_share(system):
    set_policy(system, ADMIN, {"share": []})
    with pytest.raises(Forbidden, match="share"):
        keep(system, "Ours.", who=ADMIN, shared=True)
    set_policy(system, ADMIN, {"share": ["writer"]})
    cube = keep(system, "Ours.", who=ALICE, shared=True).meta.id
    with pytest.raises(Forbidden):
        system.update(ALICE, cube, CubePatch(priority=3))
    token = dataclasses.replace(ALICE, token_id="token_1")
    with pytest.raises(Forbidden):
        keep(system, "Ours.", who=token, shared=True)
    with pytest.raises(Forbidden):
        keep(system, "Ours.", who=principal("alice", role=Role.READER), shared=True)
    with pytest.raises(Forbidden, match="share"):
        system.update(ADMIN, cube, CubePatch(access=Access(readers=["bob"])))


def test_the_default_end_is_for_cubes_without_one(system, chat):
    set_policy(system, ADMIN, {"default_ttl_seconds": 3600})
    ends = keep(system, "a").meta.expires
    assert abs(ends.timestamp() * 1e6 - now_us() - 3600e6) < 60e6
    assert keep(system, "b", ttl_seconds=60).meta.expires < ends
    chat("I am allergic to peanuts. My cat is called Miso.")
    assert system.vault.get(ALICE, "profile").meta.expires is None
    assert system.vault.get(ALICE, "chat-s#1").meta.expires is not None


def test_isolation_by_tenant(system):
    salts = [cache_salt(b"s", who, system.policies.isolation_of, None) for who in (ALICE, BOB)]
    assert salts[0] != salts[1]
    set_policy(system, ADMIN, {"isolation": "tenant"})
    salts = [cache_salt(b"s", who, system.policies.isolation_of, None) for who in (ALICE, BOB)]
    assert salts[0] == salts[1]
    assert system.scopes.person(ALICE) == system.scopes.person(BOB)
    folder = system.segments
    wiped = []
    folder.forget_scope = wiped.append
    set_policy(system, ADMIN, {"isolation": "person"})
    assert wiped == [system.scopes.tenant(ALICE)]


def test_versions_set_at_once_are_all_numbered(system):
    async def many():
        await asyncio.gather(
            *(asyncio.to_thread(system.policies.put, ADMIN, {"expired_days": n}) for n in range(8))
        )

    asyncio.run(many())
    assert [each.number for each in system.policies.versions(ADMIN)] == list(range(8, 0, -1))
