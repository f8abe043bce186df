"""Every route that writes, grants, exports or deletes leaves an audit record, and no record holds text."""

from __future__ import annotations

import json
from types import SimpleNamespace
from unittest import mock

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from memos_vllm.api.app import create_app
from memos_vllm.cube.ids import now_us
from memos_vllm.governance.principal import Role
from memos_vllm.plaintext.reader.turns import turn_body
from memos_vllm.transforms import submit
from memos_vllm.vault.jobs import REMEMBER
from tests.adapters import small
from tests.bundles import Bundler
from tests.conftest import make_config, principal, set_aside
from tests.unit.test_audit import ADMIN

CANARY, PERSON, NAME = "zanzibarquux", "Ånne-Grete Ólafsdóttir", "cube-named-vermilion"
TEXT = {"payload": {"type": "explicit", "content": f"The {CANARY} password hint is blue."}}
READS_ONLY = {"POST /v1/memory/search"}
ERASURES = {"DELETE /v1/memory/people/{person}", "POST /v1/memory/erasures"}


class Recipes:
    """A call of each route that acts: (path, arguments of the request)."""

    def __init__(self, system, http):
        self.system, self.http = system, http
        self.own = None
        """Of a stored segment, which needs an engine: the cube that it is of."""

    def cube(self, **meta):
        made = self.http.post("/v1/memory/cubes", json={"meta": meta, **TEXT})
        assert made.status_code == 201, made.text
        return made.json()["meta"]

    def adapter(self):
        body = {"payload": {"type": "parametric", "format": "lora", "content": small()}}
        made = self.http.post("/v1/memory/cubes", json=body)
        assert made.status_code == 201, made.text
        return made.json()["meta"]["id"]

    def group(self, name):
        made = self.http.post("/v1/memory/groups", json={"name": f"{NAME} {name}"})
        assert made.status_code == 201, made.text
        return made.json()["id"]

    def failed_job(self):
        """A turn with the canary, whose job was set aside."""
        said = [{"role": "user", "content": f"I like {CANARY}."}]
        body = turn_body(said, "Fine.", model="demo", request_id="r", at_us=now_us())
        turn = self.system.turns.add(principal(PERSON, role=Role.WRITER), body)
        set_aside(self.system.jobs, REMEMBER, turn)
        return next(job.id for job in self.system.jobs.failed() if job.subject == turn)

    def of(self, route):
        cubes = "/v1/memory/cubes"
        unique = f"{NAME}-{len(route)}"
        name = {"meta": {"name": unique}, **TEXT}
        match route:
            case "POST /v1/memory/cubes":
                return cubes, {"json": name}
            case "POST /v1/memory/cubes/batch":
                return f"{cubes}/batch", {"json": {"cubes": [TEXT, TEXT]}}
            case "PATCH /v1/memory/cubes/{ref}":
                patch = {"append": [{"text": f"More of {CANARY}."}], "name": unique}
                return f"{cubes}/{self.cube()['id']}", {"json": patch}
            case "DELETE /v1/memory/cubes/{ref}":
                return f"{cubes}/{self.cube(name=unique)['id']}", {}
            case "POST /v1/memory/cubes/{ref}/rollback":
                made = self.cube()
                return f"{cubes}/{made['id']}/rollback", {"json": {"version": made["version"]}}
            case "POST /v1/memory/cubes/{ref}/merge":
                return f"{cubes}/{self.cube()['id']}/merge", {"json": {"into": self.cube()["id"]}}
            case "POST /v1/memory/documents":
                return "/v1/memory/documents", {
                    "files": {"file": (f"{CANARY}.md", f"# {CANARY}\n\nIt is blue.")}
                }
            case "POST /v1/memory/feedback":
                return "/v1/memory/feedback", {
                    "json": {"action": "prefer", "text": f"I prefer {CANARY} tea."}
                }
            case "POST /v1/memory/cubes/{ref}/activate":
                return f"{cubes}/{self.cube()['id']}/activate", {"json": {"pinned": False}}
            case "POST /v1/memory/cubes/{ref}/distill":
                return f"{cubes}/{self.cube()['id']}/distill", {"json": {"name": unique}}
            case "POST /v1/memory/cubes/{ref}/compact":
                return f"{cubes}/{self.cube()['id']}/compact", {"json": {"ratio": 2}}
            case "DELETE /v1/memory/cubes/{ref}/compact":
                return f"{cubes}/{self.cube()['id']}/compact", {}
            case "POST /v1/memory/cubes/{ref}/decode":
                return f"{cubes}/{self.adapter()}/decode", {"json": {"topics": [CANARY]}}
            case "POST /v1/memory/activation/{key}/recover":
                self.own = (self.cube()["id"], None)
                return "/v1/memory/activation/0123456789abcdef/recover", {"json": {"name": unique}}
            case "POST /v1/memory/jobs/{job}/cancel":
                job = self.http.post(f"{cubes}/{self.cube()['id']}/distill").json()["id"]
                return f"/v1/memory/jobs/{job}/cancel", {}
            case "POST /v1/memory/jobs/{job}/retry":
                return f"/v1/memory/jobs/{self.failed_job()}/retry", {}
            case "DELETE /v1/memory/jobs/{job}":
                return f"/v1/memory/jobs/{self.failed_job()}", {}
            case "POST /v1/memory/people/{person}/tokens":
                return f"/v1/memory/people/{PERSON}/tokens", {"json": {"scopes": ["chat"]}}
            case "POST /v1/memory/people/{person}/view":
                return f"/v1/memory/people/{PERSON}/view", {"json": {"ttl_seconds": 60}}
            case "DELETE /v1/memory/people/{person}/tokens/{token}":
                url = f"/v1/memory/people/{PERSON}/tokens"
                made = self.http.post(url, json={"scopes": ["chat"]}).json()
                return f"{url}/{made['id']}", {}
            case "GET /v1/memory/cubes/{ref}/adapter":
                return f"{cubes}/{self.adapter()}/adapter", {}
            case "PUT /v1/memory/policy":
                return "/v1/memory/policy", {"json": {"kinds": ["plaintext", "parametric"]}}
            case "POST /v1/memory/people/{person}/restore":
                self.cube()
                return f"/v1/memory/people/{PERSON}/restore", {"json": {"as_of": 86400}}
            case "GET /v1/memory/people/{person}/export":
                self.cube()
                return f"/v1/memory/people/{PERSON}/export", {}
            case "POST /v1/memory/people/{person}/import":
                dump = [{"id": "m", "memory": f"Likes {CANARY}.", "user_id": PERSON}]
                return f"/v1/memory/people/{PERSON}/import", {"content": json.dumps(dump)}
            case "PUT /v1/memory/cubes/{ref}/grants":
                grant = {"person": f"friend of {PERSON}", "permissions": ["read"]}
                return f"{cubes}/{self.cube()['id']}/grants", {"json": grant}
            case "DELETE /v1/memory/cubes/{ref}/grants":
                url, friend = f"{cubes}/{self.cube()['id']}/grants", f"friend of {PERSON}"
                made = self.http.put(url, json={"person": friend, "permissions": ["read"]})
                assert made.status_code == 200, made.text
                return url, {"params": {"person": friend}}
            case "POST /v1/memory/groups":
                return "/v1/memory/groups", {"json": {"name": NAME}}
            case "DELETE /v1/memory/groups/{group}":
                return f"/v1/memory/groups/{self.group('gone')}", {}
            case "PUT /v1/memory/groups/{group}/members/{person}":
                return f"/v1/memory/groups/{self.group('in')}/members/{PERSON}", {}
            case "DELETE /v1/memory/groups/{group}/members/{person}":
                url = f"/v1/memory/groups/{self.group('out')}/members/{PERSON}"
                assert self.http.put(url).status_code < 300
                return url, {}
            case "DELETE /v1/memory/people/{person}":
                return f"/v1/memory/people/one%20like%20{CANARY}", {}
            case "DELETE /v1/memory/sessions/{session}":
                return f"/v1/memory/sessions/{CANARY}", {}
            case "POST /v1/memory/erasures":
                return "/v1/memory/erasures", {"json": {"person": f"another {CANARY}"}}
            case "POST /v1/memory/store/bundles":
                return "/v1/memory/store/bundles", {"json": self.store.wanted("handbook")}
            case "DELETE /v1/memory/store/bundles/{name}":
                return self.store.installed("gone"), {}
            case "PATCH /v1/memory/store/bundles/{name}":
                return self.store.installed("followed"), {"json": {"follow": "approve"}}
            case "POST /v1/memory/store/bundles/{name}/approve":
                return self.store.installed("approved") + "/approve", {"json": {}}
            case "POST /v1/memory/store/bundles/{name}/check":
                return self.store.installed("checked") + "/check", {}
            case "POST /v1/memory/store/bundles/{name}/update":
                return self.store.installed("updated", newer=True) + "/update", {"json": {}}
            case "POST /v1/memory/store/bundles/{name}/rollback":
                url = self.store.installed("back", newer=True)
                assert self.http.post(f"{url}/update", json={}).status_code == 200
                return f"{url}/rollback", {}
            case "POST /v1/memory/store/publishers":
                key = self.store.bundler.key.public.hex
                return "/v1/memory/store/publishers", {"json": {"key": key, "label": NAME}}
            case "DELETE /v1/memory/store/publishers/{fingerprint}":
                return f"/v1/memory/store/publishers/{self.store.trusted()}", {}
        raise AssertionError(
            f"{route} acts: add a call of it here, so that its audit record is tested"
        )


class Store:
    """A registry with bundles that hold the canary."""

    def __init__(self, system, http, folder):
        self.http, self.bundler = http, Bundler(system, folder)

    def wanted(self, name):
        self.bundler.publish(name=name, contents={CANARY: [f"All about {CANARY}."]})
        return {"name": name, "publisher": self.bundler.key.public.fingerprint}

    def installed(self, name, newer=False):
        made = self.http.post("/v1/memory/store/bundles", json=self.wanted(name))
        assert made.status_code == 201, made.text
        if newer:
            self.bundler.publish("1.1.0", {CANARY: [f"More about {CANARY}."]}, name=name)
        return f"/v1/memory/store/bundles/{name}"

    def trusted(self):
        key = self.bundler.key.public
        body = {"key": key.hex, "label": NAME}
        assert self.http.post("/v1/memory/store/publishers", json=body).status_code == 201
        return key.fingerprint


class FakeActivator:
    async def activate(self, caller, cubes, system):
        return True, 0.1, []


@pytest.fixture
def config(tmp_path):
    return make_config(tmp_path, store={"registries": {"team": str(tmp_path / "registry")}})


@pytest.fixture
def recipes(system, tmp_path):
    from urllib.parse import quote

    app = create_app(system)
    app.state.memos_engine = SimpleNamespace(activator=FakeActivator(), adapters=None)
    _, key = system.keys.create("acme", Role.ADMIN)
    headers = {"Authorization": f"Bearer {key}", "X-Memos-User": quote(PERSON)}
    with TestClient(app, headers=headers) as http:
        made = Recipes(system, http)
        made.store = Store(system, http, tmp_path)
        with mock.patch.object(submit, "find_segment", return_value=made):
            yield made


def acting_routes(app):
    for path, operations in app.openapi()["paths"].items():
        for method in map(str.upper, operations):
            route = f"{method} {path}"
            if not path.startswith("/v1/memory") or route in READS_ONLY:
                continue
            if method != "GET" or path.endswith(("/adapter", "/export")):
                yield route


def records(system):
    return system.audit.read(ADMIN, limit=1000)


def test_every_route_that_acts_leaves_a_record_with_key_person_and_request(system, recipes):
    key_id = system.keys.list("acme")[0].id
    routes = list(acting_routes(recipes.http.app))
    assert len(routes) >= 16
    for number, route in enumerate(routes):
        path, arguments = recipes.of(route)
        before, request = len(records(system)), f"request-{number}"
        reply = recipes.http.request(
            route.split()[0], path, headers={"X-Request-Id": request}, **arguments
        )
        assert reply.status_code < 300, (route, reply.text)
        new = records(system)[before:]
        mine = [each for each in new if each["request_id"] == request]
        assert mine, f"{route} leaves no record"
        for each in mine:
            # An erasure is recorded by its key alone, or it would keep a name.
            person = "" if route in ERASURES else PERSON
            assert (each["key_id"], each["person"]) == (key_id, person), route
    _check_no_text(system)
    assert system.audit.verify(ADMIN) == []


def _check_no_text(system):
    """Only the table of names has a name, and nothing has text of memory, names of cubes or of files."""
    with system.database.read() as session:
        for table in ("audit_entries", "audit_shards", "audit_trees"):
            rows = [
                dict(row) for row in session.execute(sa.text(f"SELECT * FROM {table}")).mappings()
            ]
            text = json.dumps(rows, ensure_ascii=False, default=str).lower()
            for word in (CANARY, PERSON, PERSON.split()[0], NAME, "blue"):
                assert word.lower() not in text, (table, word)
                assert json.dumps(word.lower())[1:-1] not in text, (table, word)
    for path in system.config.checkpoints_path.rglob("*"):
        assert path.is_dir() or CANARY not in path.read_text()


def test_the_exports_and_rotations_of_the_command_line_are_recorded(system, tmp_path):
    from memos_vllm.importers.bundle import export_bundle

    export_bundle(system, ADMIN, tmp_path / "bundle.jsonl", person="alice")
    (record,) = records(system)
    assert (record["action"], record["owner"], record["detail"]) == (
        "bundle.export",
        "alice",
        {"cubes": 0},
    )
    system.keys.tokens.rotate()
    operator = principal("", tenant="operator", role=Role.ADMIN)
    assert [each["action"] for each in system.audit.read(operator)] == ["token.rotate"]
