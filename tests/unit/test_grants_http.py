"""Grants and groups over HTTP and on the command line: roles, tokens, errors, audit."""

from __future__ import annotations

import json

import pytest
import yaml
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from memos_vllm.api.app import create_app
from memos_vllm.cli.main import app as command_line
from memos_vllm.demo.embedder import demo_embedder_path
from memos_vllm.governance.principal import Role
from tests.conftest import principal

TEXT = {"payload": {"type": "explicit", "content": "The boat leaves at seven."}}


@pytest.fixture
def http(system):
    app = create_app(system)
    keys = {
        "admin": system.keys.create("acme", Role.ADMIN)[1],
        "writer": system.keys.create("acme", Role.WRITER)[1],
        "reader": system.keys.create("acme", Role.READER)[1],
        "other": system.keys.create("globex", Role.ADMIN)[1],
    }
    with TestClient(app, client=("127.0.0.1", 1), raise_server_exceptions=False) as client:

        def call(method, path, key="writer", person="bob", **more):
            headers = {"Authorization": f"Bearer {keys.get(key, key)}"}
            if person:
                headers["X-Memos-User"] = person
            return client.request(method, f"/v1/memory{path}", headers=headers, **more)

        yield call


def grant(http, cube, status=200, key="writer", by="bob", **body):
    reply = http("PUT", f"/cubes/{cube}/grants", key, by, json=body)
    assert reply.status_code == status, reply.text
    return reply.json()


def test_bob_shares_with_carol_and_takes_it_back(http):
    cube = http("POST", "/cubes", json=TEXT).json()["meta"]["id"]
    path = f"/cubes/{cube}"
    assert http("GET", path, person="carol").status_code == 404
    (shown,) = grant(http, cube, person="carol", permissions=["read", "use"], ttl_seconds=60)[
        "grants"
    ]
    assert shown["person"] == "carol"
    assert (shown["permissions"], shown["effect"], shown["origin"]) == (
        ["read", "use"],
        "allow",
        "grant",
    )
    assert http("GET", path, person="carol").json()["meta"]["person"] == "bob"
    found = http("POST", "/search", person="carol", json={"query": "boat"}).json()["results"]
    assert [hit["cube"] for hit in found] == [cube]
    for key, person in (("other", "carol"), ("writer", "dave"), ("writer", "")):
        assert http("GET", path, key, person).status_code == 404
        assert http("GET", f"{path}/grants", key, person).status_code == 404
    assert http("GET", f"{path}/grants", person="carol").status_code == 403
    assert http("GET", f"{path}/versions", person="carol").status_code == 403
    gone = http("DELETE", f"{path}/grants?person=carol")
    assert gone.json()["grants"] == []
    assert http("GET", path, person="carol").status_code == 404
    assert http("DELETE", f"{path}/grants?person=carol").status_code == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"permissions": ["read"]}, 400),
        ({"person": "c", "group": "g", "permissions": ["read"]}, 400),
        ({"person": "c", "permissions": []}, 400),
        ({"person": "c", "permissions": ["fly"]}, 400),
        ({"person": "c\n", "permissions": ["read"]}, 400),
        ({"person": "c" * 257, "permissions": ["read"]}, 400),
        ({"person": "bob", "permissions": ["read"]}, 400),
        ({"group": "none", "permissions": ["read"]}, 404),
        ({"role": "king", "permissions": ["read"]}, 400),
        ({"tenant": True, "permissions": ["read"], "effect": "maybe"}, 400),
        ({"person": "c", "permissions": ["read"], "expires": "2001-01-01T00:00:00Z"}, 400),
        ({"person": "c", "permissions": ["read"], "ttl_seconds": 0}, 400),
    ],
)
def test_a_malformed_grant_is_refused_by_name(http, body, status):
    cube = http("POST", "/cubes", json=TEXT).json()["meta"]["id"]
    assert "error" in grant(http, cube, status, **body)
    assert http("GET", f"/cubes/{cube}/grants").json()["grants"] == []


def test_groups_are_the_admin_s_to_change_and_the_members_to_see(http):
    for key in ("writer", "reader"):
        assert http("POST", "/groups", key, json={"name": "crew"}).status_code == 403
    made = http("POST", "/groups", "admin", "", json={"name": "crew"})
    assert made.status_code == 201
    assert http("POST", "/groups", "admin", "", json={"name": "crew"}).status_code == 409
    odd = "a/b жé"
    for person in ("carol", odd):
        assert http("PUT", f"/groups/crew/members/{person}", "admin", "").status_code == 200
    assert http("PUT", "/groups/crew/members/eve").status_code == 403
    assert http("GET", "/groups/crew", person="carol").json()["people"] == [odd, "carol"]
    assert http("GET", "/groups/crew", person="bob").status_code == 404
    assert http("GET", "/groups/crew", "other", "carol").status_code == 404
    assert http("GET", "/groups", person="bob").json()["groups"] == []
    assert [each["name"] for each in http("GET", "/groups", person="carol").json()["groups"]]
    cube = http("POST", "/cubes", json=TEXT).json()["meta"]["id"]
    shown = grant(http, cube, group="crew", permissions=["read"])["grants"][0]
    assert shown["group"] == "crew"
    assert http("GET", f"/cubes/{cube}", person="carol").status_code == 200
    assert http("DELETE", "/groups/crew/members/carol", "admin", "").json()["members"] == 1
    assert http("GET", f"/cubes/{cube}", person="carol").status_code == 404
    assert http("DELETE", "/groups/crew", "admin", "").status_code == 200
    assert http("GET", f"/cubes/{cube}/grants").json()["grants"] == []


def test_a_token_shares_only_with_its_scope_and_never_more_than_its_person(http):
    cube = http("POST", "/cubes", json=TEXT).json()["meta"]["id"]

    def token(person, *scopes):
        reply = http("POST", f"/people/{person}/tokens", person="", json={"scopes": list(scopes)})
        return reply.json()["token"]

    body = {"person": "carol", "permissions": ["read"]}
    for scopes in (("memory.read", "memory.write"), ("chat", "memory.delete")):
        assert "error" in grant(http, cube, 403, key=token("bob", *scopes), by="", **body)
    sharing = token("bob", "memory.share", "memory.read")
    assert grant(http, cube, key=sharing, by="", **body)["grants"]
    assert http("PATCH", f"/cubes/{cube}", sharing, "", json={"priority": 1}).status_code == 403
    carol = token("carol", "memory.share", "memory.read")
    assert http("GET", f"/cubes/{cube}", carol, "").status_code == 200
    assert "error" in grant(http, cube, 403, key=carol, by="", person="dave", permissions=["read"])
    assert http("GET", "/groups", sharing, "").status_code == 403


def test_grants_and_groups_are_in_the_audit_log_without_names(http):
    cube = http("POST", "/cubes", json=TEXT).json()["meta"]["id"]
    http("POST", "/groups", "admin", "", json={"name": "secret-crew"})
    http("PUT", "/groups/secret-crew/members/carol", "admin", "")
    grant(http, cube, person="carol", permissions=["read"])
    grant(http, cube, group="secret-crew", permissions=["use"], effect="deny")
    http("DELETE", f"/cubes/{cube}/grants?person=carol")
    http("DELETE", "/groups/secret-crew/members/carol", "admin", "")
    http("DELETE", "/groups/secret-crew", "admin", "")
    log = http("GET", "/audit?verify=true&limit=1000", "admin", "").json()
    assert log["intact"]
    actions = [record["action"] for record in log["records"]]
    for action in ("grant.set", "grant.remove", "group.create", "group.add", "group.remove"):
        assert action in actions
    assert actions.count("grant.set") == 2
    assert "group.delete" in actions
    assert "secret-crew" not in json.dumps(log)


def test_a_shared_cube_merges_only_into_one_that_is_shared_alike(http):
    one, two = (http("POST", "/cubes", json=TEXT).json()["meta"]["id"] for _ in range(2))
    grant(http, two, person="carol", permissions=["read"])
    merged = http("POST", f"/cubes/{one}/merge", json={"into": two})
    assert merged.status_code == 422
    assert "shared with" in merged.json()["error"]["message"]
    grant(http, one, person="carol", permissions=["read"])
    assert http("POST", f"/cubes/{one}/merge", json={"into": two}).status_code == 200


def test_explain_names_no_cube_that_was_taken_back(http, system):
    cube = http("POST", "/cubes", json=TEXT | {"meta": {"name": "secret plan"}}).json()["meta"]
    grant(http, cube["id"], person="carol", permissions=["read", "use"])
    entry = {
        "cube": cube["id"],
        "version": cube["version"],
        "name": "secret plan",
        "placement": "stable",
        "reason": "named in the request",
    }
    system.plans.put(principal("carol"), "r1", {"entries": [entry]})
    shown = http("GET", "/explain/r1", person="carol").json()["entries"]
    assert shown[0]["name"] == "secret plan"
    http("DELETE", f"/cubes/{cube['id']}/grants?person=carol")
    shown = http("GET", "/explain/r1", person="carol").json()["entries"]
    assert (shown[0]["cube"], shown[0]["name"]) == (cube["id"], None)


def test_the_command_line_shares_denies_and_shows(tmp_path):
    settings = tmp_path / "memos.yaml"
    embedder = {"model": str(demo_embedder_path()), "processes": 0}
    settings.write_text(yaml.safe_dump({"home": str(tmp_path / "home"), "embedder": embedder}))

    def memos(*arguments, code=0):
        result = CliRunner().invoke(command_line, [*arguments, "--config", str(settings)])
        assert result.exit_code == code, (result.output, result.exception)
        return result.stdout

    made = json.loads(memos("cubes", "create", "--text", "Seven.", "--person", "bob", "--json"))
    cube = made["meta"]["id"]
    memos("groups", "create", "crew")
    memos("groups", "add", "crew", "carol")
    assert "carol" in memos("groups", "show", "crew")
    memos("grants", "set", cube, "--group", "crew", "--permission", "read", "--expires-in", "1d")
    memos("grants", "set", cube, "--to", "dave", "--permission", "use", "--deny")
    shown = json.loads(memos("grants", "list", cube, "--json"))
    assert [(g["group"], g["person"], g["effect"]) for g in shown] == [
        ("crew", None, "allow"),
        (None, "dave", "deny"),
    ]
    memos("grants", "remove", cube, "--to", "dave")
    assert "dave" not in memos("grants", "list", cube)
    memos("grants", "set", cube, "--permission", "read", code=1)
    memos("groups", "remove", "crew", "carol")
    memos("groups", "delete", "crew")
    assert json.loads(memos("grants", "list", cube, "--json")) == []
    assert "crew" not in memos("groups", "list")
