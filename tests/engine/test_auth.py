"""Authentication of every route of the running app: without a key, with a wrong one, a revoked one."""

from __future__ import annotations

import re

import pytest

from memos_vllm.api.access import Need, is_console, need_of
from memos_vllm.config.tree import OPEN_ROUTES
from tests.engine.harness import MODEL, Server, chat

_ROUTE = re.compile(r"Route: (\S+), Methods: ([A-Z, ]+)")


def routes_of(server: Server) -> set[tuple[str, str]]:
    """(method, path) of every route, as vLLM logs them at start."""
    found = {
        (method, path)
        for path, methods in _ROUTE.findall(server.log())
        for method in methods.replace(" ", "").split(",")
    }
    assert ("POST", "/v1/chat/completions") in found
    return found


def test_every_route_but_the_open_ones_needs_a_key(server):
    with server.http() as http:
        for method, path in sorted(routes_of(server)):
            concrete = re.sub(r"\{\w+\}", "x", path)
            status = http.request(method, concrete, json={}).status_code
            if path in OPEN_ROUTES and method in ("GET", "HEAD"):
                assert status == 200, (method, path)
            elif is_console(path):
                assert status in _of_console(method, concrete), (method, path)
            else:
                assert status == 401, (method, path)


def _of_console(method: str, path: str) -> tuple[int, ...]:
    """Statuses of a console's route without a session: its sign-in and files are open, the rest leads there."""
    if need_of(method, path, OPEN_ROUTES) is Need.CONSOLE:
        return (303,)
    return (200, 404) if method == "GET" else (400, 403)


def test_routes_of_all_tenants_need_the_operator(server, keys):
    closed = [
        (method, path)
        for method, path in sorted(routes_of(server))
        if need_of(method, path, OPEN_ROUTES) in (Need.OPERATOR, Need.METRICS)
    ]
    assert ("GET", "/metrics") in closed
    chat(server, keys.acme, "metrics", "Hello.")
    with server.http(keys.acme_admin) as tenant:
        for method, path in closed:
            concrete = re.sub(r"\{\w+\}", "x", path)
            assert tenant.request(method, concrete, json={}).status_code == 403, (method, path)
    with server.http(keys.operator) as operator:
        metrics = operator.get("/metrics")
    assert metrics.status_code == 200
    assert "memos_chats_total" in metrics.text
    assert "memos_step_seconds_bucket" in metrics.text


def test_a_scrapers_key_reads_metrics_and_nothing_else(server, keys):
    with server.http(keys.metrics) as http:
        assert http.get("/metrics").status_code == 200
        for method, path in sorted(routes_of(server)):
            if (method, path) == ("GET", "/metrics"):
                continue
            if path not in OPEN_ROUTES or method not in ("GET", "HEAD"):
                concrete = re.sub(r"\{\w+\}", "x", path)
                status = http.request(method, concrete, json={}).status_code
                if is_console(path):  # a key in a header is no session
                    assert status in _of_console(method, concrete), path
                else:
                    assert status == (200 if (method, path) == ("HEAD", "/metrics") else 403), path


def test_metrics_name_no_tenant_and_no_person(server, keys):
    chat(server, keys.acme, "very-secret-person", "Hello.")
    with server.http(keys.operator) as operator:
        text = operator.get("/metrics").text
    ours = [line for line in text.splitlines() if line.startswith("memos_")]
    assert ours
    assert not any("acme" in line or "very-secret-person" in line for line in ours)


@pytest.mark.parametrize("key", ["nonsense", "sk-memos-000000000000-" + "A" * 43])
def test_a_wrong_key_is_a_401_in_openais_envelope(server, key):
    with server.http() as http:
        reply = http.post(
            "/v1/chat/completions",
            json={"model": MODEL, "messages": []},
            headers={"Authorization": f"Bearer {key}"},
        )
    assert reply.status_code == 401
    assert reply.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
    assert reply.json()["error"]["code"] == "invalid_api_key"


def test_an_x_api_key_header_works_as_well(server, keys):
    with server.http() as http:
        assert http.get("/v1/models", headers={"x-api-key": keys.acme}).status_code == 200


def test_a_revoked_key_stops_working(server, homes):
    import time

    from memos_vllm.config.load import load_config
    from memos_vllm.governance.principal import Role
    from memos_vllm.system import MemorySystem

    system = MemorySystem(load_config(overrides={"home": str(homes / "home")}))
    record, key = system.keys.create("acme", Role.WRITER)
    with server.http(key) as http:
        assert http.get("/v1/models").status_code == 200
        system.keys.revoke(record.id)
        time.sleep(0.5)  # longer than key_cache_seconds
        assert http.get("/v1/models").status_code == 401
    system.close()


def test_a_persons_token_chats_as_its_person_alone(server, keys):
    with server.http(keys.acme) as http:
        asked = {"scopes": ["chat", "memory.read"]}
        made = http.post("/v1/memory/people/tok-ann/tokens", json=asked)
    assert made.status_code == 201, made.text
    body = {"model": MODEL, "max_tokens": 2, "messages": [{"role": "user", "content": "Hello."}]}
    with server.http(made.json()["token"]) as http:
        own = http.post("/v1/chat/completions", json={**body, "user": "tok-ann"})
        assert own.status_code == 200, own.text
        assert "memory.write" in own.json()["memory"]["not_written"]
        for named in (
            {"user": "tok-bob"},
            {"safety_identifier": "tok-bob", "user": "tok-ann"},
        ):
            for path in ("/v1/chat/completions", "/v1/responses", "/v1/completions"):
                text = {"input": "Hi."} if path.endswith("responses") else {"prompt": "Hi."}
                asked = {**body, **named} if "chat" in path else {"model": MODEL, **text, **named}
                reply = http.post(path, json=asked)
                assert reply.status_code == 403, (path, named, reply.text)
        assert http.get("/metrics").status_code == 403
