"""The Memory API over HTTP without an engine, with a real vault, Chroma and embedder."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from memos_vllm.api.app import create_app
from memos_vllm.cube.model import MemCube
from memos_vllm.governance.principal import Role

FACT = {"payload": {"type": "explicit", "content": [{"type": "fact", "text": "The sky is green."}]}}


@pytest.fixture
def http(system):
    """Clients by name, with keys on: writers, a reader, an admin, another tenant, and no key."""
    app = create_app(system)

    def client(tenant: str, role: Role, person: str = "") -> TestClient:
        _, key = system.keys.create(tenant, role)
        headers = {"Authorization": f"Bearer {key}"}
        if person:
            headers["X-Memos-User"] = person
        return TestClient(app, headers=headers, raise_server_exceptions=False)

    return {
        "alice": client("acme", Role.WRITER, "alice"),
        "bob": client("acme", Role.WRITER, "bob"),
        "reader": client("acme", Role.READER, "alice"),
        "admin": client("acme", Role.ADMIN),
        "stranger": client("globex", Role.ADMIN, "alice"),
        "anonymous": TestClient(app, raise_server_exceptions=False),
    }


def create(client: TestClient, body=FACT, **headers) -> dict:
    reply = client.post("/v1/memory/cubes", json=body, headers=headers)
    assert reply.status_code == 201, reply.text
    return reply.json()


def test_text_with_a_nul_is_refused_by_name(http):
    for content in ("a\x00b", [{"text": "a\x00b"}]):
        body = {"payload": {"type": "explicit", "content": content}}
        reply = http["alice"].post("/v1/memory/cubes", json=body)
        assert reply.status_code == 400
        assert "content" in reply.json()["error"]["message"]


def test_create_read_change_delete(http):
    alice = http["alice"]
    made = create(alice)
    path = f"/v1/memory/cubes/{made['meta']['id']}"
    read = alice.get(path)
    shown = read.json()
    none = {"chains": 0, "bytes": 0, "pinned": False, "near_kl": None, "near_refused": 0}
    assert shown["meta"]["usage"].pop("kv") == none
    assert MemCube.model_validate(shown) == MemCube.model_validate(made)
    assert read.headers["etag"] == f'"{made["meta"]["version"]}"'
    changed = alice.patch(
        path,
        json={"append": [{"text": "So is grass."}]},
        headers={"If-Match": read.headers["etag"]},
    )
    assert [item["text"] for item in changed.json()["payload"]["content"]] == [
        "The sky is green.",
        "So is grass.",
    ]
    versions = alice.get(f"{path}/versions").json()["versions"]
    assert [version["sequence"] for version in versions] == [2, 1]
    older = alice.get(f"{path}/versions/{versions[1]['id']}").json()
    assert len(older["payload"]["content"]) == 1
    diff = alice.get(f"{path}/diff", params={"older": versions[1]["id"]}).json()
    assert [item["text"] for item in diff["added"]] == ["So is grass."]
    back = alice.post(f"{path}/rollback", json={"version": versions[1]["id"]}).json()
    assert back["meta"]["sequence"] == 3
    assert alice.delete(path).json() == {
        "id": made["meta"]["id"],
        "deleted": True,
        "index_pending": False,
        "stale": [],
        "deleted_too": [],
        "jobs": [],
    }
    assert alice.get(path).status_code == 404


def test_a_stale_etag_is_a_409_that_names_the_current_version(http):
    alice = http["alice"]
    made = create(alice)
    path = f"/v1/memory/cubes/{made['meta']['id']}"
    current = alice.patch(path, json={"priority": 1}).json()["meta"]["version"]
    reply = alice.patch(
        path, json={"priority": 2}, headers={"If-Match": f'"{made["meta"]["version"]}"'}
    )
    assert reply.status_code == 409
    assert current in reply.json()["error"]["message"]


def test_search_returns_only_cubes_that_the_caller_may_read(http):
    create(http["alice"])
    create(http["admin"], {"meta": {"shared": True}, **FACT})
    for who, hits in (("alice", 2), ("reader", 2), ("bob", 1), ("stranger", 0)):
        reply = http[who].post("/v1/memory/search", json={"query": "What colour is the sky?"})
        assert len(reply.json()["results"]) == hits, who
    hit = http["alice"].post("/v1/memory/search", json={"query": "sky"}).json()["results"][0]
    assert {"lexical_turn", "dense_turn"} <= set(hit["signals"])


def test_lists_are_filtered_and_paged(http):
    alice = http["alice"]
    for number in range(5):
        create(alice, {"meta": {"name": f"n-{number}", "tags": [f"t{number % 2}"]}, **FACT})
    create(http["admin"], {"meta": {"shared": True, "name": "all"}, **FACT})
    seen, cursor = [], None
    while True:
        params = {"limit": 2, **({"cursor": cursor} if cursor else {})}
        page = alice.get("/v1/memory/cubes", params=params).json()
        seen += [cube["name"] for cube in page["cubes"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == ["all", "n-4", "n-3", "n-2", "n-1", "n-0"]
    tagged = alice.get("/v1/memory/cubes", params={"tag": "t1"}).json()["cubes"]
    assert [cube["name"] for cube in tagged] == ["n-3", "n-1"]
    shared = alice.get("/v1/memory/cubes", params={"shared": True}).json()["cubes"]
    assert [cube["name"] for cube in shared] == ["all"]
    assert len(http["bob"].get("/v1/memory/cubes").json()["cubes"]) == 1


def test_an_idempotency_key_makes_one_cube(http):
    alice = http["alice"]
    first = create(alice, **{"Idempotency-Key": "abc"})
    assert create(alice, **{"Idempotency-Key": "abc"})["meta"]["id"] == first["meta"]["id"]
    other = {"payload": {"type": "explicit", "content": "Something else."}}
    reply = alice.post("/v1/memory/cubes", json=other, headers={"Idempotency-Key": "abc"})
    assert reply.status_code == 409
    assert create(http["bob"], **{"Idempotency-Key": "abc"})["meta"]["id"] != first["meta"]["id"]


def test_a_batch_is_stored_whole_or_not_at_all(http):
    alice = http["alice"]
    good = {"meta": {"name": "one"}, **FACT}
    reply = alice.post(
        "/v1/memory/cubes/batch", json={"cubes": [good, {"meta": {"name": "two"}, **FACT}]}
    )
    assert [cube["meta"]["name"] for cube in reply.json()["cubes"]] == ["one", "two"]
    clash = alice.post(
        "/v1/memory/cubes/batch", json={"cubes": [{"meta": {"name": "three"}, **FACT}, good]}
    )
    assert clash.status_code == 409
    assert alice.get("/v1/memory/cubes/three").status_code == 404


@pytest.mark.parametrize(
    ("who", "method", "path", "body", "status", "says"),
    [
        ("anonymous", "GET", "/v1/memory/cubes", None, 401, "an API key is needed"),
        ("reader", "POST", "/v1/memory/cubes", FACT, 403, "`writer`"),
        ("alice", "POST", "/v1/memory/cubes", {"meta": {"shared": True}, **FACT}, 403, "`admin`"),
        ("alice", "GET", "/v1/memory/audit", None, 403, "`admin`"),
        ("alice", "GET", "/v1/memory/cubes/absent", None, 404, "'absent'"),
        ("alice", "POST", "/v1/memory/cubes", {"payload": {"type": "explicit"}}, 400, "content"),
        ("alice", "POST", "/v1/memory/cubes", {"meta": {"nmae": "x"}, **FACT}, 400, "nmae"),
        (
            "alice",
            "POST",
            "/v1/memory/cubes",
            {"payload": {"type": "activation"}},
            501,
            "activation",
        ),
        (
            "alice",
            "POST",
            "/v1/memory/cubes",
            {"payload": {"type": "parametric"}},
            422,
            "adapter_config.json",
        ),
        ("alice", "GET", "/v1/memory/cubes?cursor=zzz", None, 400, "cursor"),
        ("alice", "GET", "/v1/memory/explain/chatcmpl-none", None, 404, "chatcmpl-none"),
        ("alice", "GET", "/v1/elsewhere", None, 403, "every tenant"),
    ],
)
def test_errors_have_a_status_an_envelope_and_a_remedy(http, who, method, path, body, status, says):
    reply = http[who].request(method, path, json=body)
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert says in error["message"]


def test_activation_without_an_engine_is_a_501_after_the_access_check(http):
    cube = create(http["alice"])["meta"]["id"]
    assert http["alice"].post(f"/v1/memory/cubes/{cube}/activate").status_code == 501
    assert http["bob"].post(f"/v1/memory/cubes/{cube}/activate").status_code == 404


def test_the_audit_log_is_per_tenant_and_verifiable(http):
    create(http["alice"])
    page = http["admin"].get("/v1/memory/audit", params={"verify": True}).json()
    assert page["intact"] is True
    assert any(
        record["action"] == "cube.create" and record["person"] == "alice"
        for record in page["records"]
    )
    actions = http["stranger"].get("/v1/memory/audit").json()["records"]
    assert [record["action"] for record in actions] == ["key.create"]


@pytest.mark.slow
def test_too_much_text_is_a_413(tmp_path):
    from memos_vllm.system import MemorySystem
    from tests.conftest import make_config

    system = MemorySystem(make_config(tmp_path, limits={"text_bytes": 100})).open()
    client = TestClient(
        create_app(system),
        base_url="http://127.0.0.1",
        client=("127.0.0.1", 1),
        headers={"X-Memos-User": "a"},
    )
    reply = client.post(
        "/v1/memory/cubes", json={"payload": {"type": "explicit", "content": "x" * 101}}
    )
    assert reply.status_code == 413
    assert "limits.text_bytes" in reply.json()["error"]["message"]
    system.close()


def test_a_person_header_is_percent_decoded(system):
    client = TestClient(create_app(system), base_url="http://127.0.0.1", client=("127.0.0.1", 1))
    made = client.post("/v1/memory/cubes", json=FACT, headers={"X-Memos-User": "Zo%C3%AB"}).json()
    assert made["meta"]["person"] == "Zoë"


def test_the_schema_is_published_and_every_route_has_its_errors_and_examples(http, system):
    schema = http["alice"].get("/v1/memory/schema").json()
    assert set(schema["properties"]) == {"meta", "payload"}
    document = create_app(system).openapi()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert {"401", "403", "404"} <= set(operation["responses"]), (method, path)
            body = operation.get("requestBody")
            if body and "multipart/form-data" not in body["content"]:
                kinds = body["content"]
                content = kinds.get("application/json") or kinds["application/octet-stream"]
                reference = content["schema"].get("$ref", "").rpartition("/")[2]
                named = document["components"]["schemas"].get(reference, {})
                assert (
                    content.get("examples")
                    or content.get("example")
                    or named.get("examples")
                    or content["schema"].get("examples")
                ), (method, path)
