"""Browsers of other origins, with keys: vLLM's app with the plugin, built without an engine."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from memos_vllm.governance.principal import Role
from memos_vllm.system import MemorySystem
from tests.conftest import make_config

cli_args = pytest.importorskip("vllm.entrypoints.launchers.cli_args")

ORIGIN = "https://app.example"


@pytest.fixture
def app(tmp_path, monkeypatch):
    """(vLLM's app with `--allowed-origins`, a key)."""
    from vllm.entrypoints.launchers.app import build_app
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    system = MemorySystem(make_config(tmp_path)).open()
    key = system.keys.create("acme", Role.WRITER)[1]
    system.close()
    monkeypatch.setenv("VLLM_PLUGINS", "memos")
    monkeypatch.setenv("MEMOS__HOME", str(tmp_path))
    monkeypatch.setenv("MEMOS__EMBEDDER__PROCESSES", "0")
    parser = cli_args.make_arg_parser(FlexibleArgumentParser())
    args = parser.parse_args(["--allowed-origins", f'["{ORIGIN}"]'])
    made = build_app(args, ("generate",))
    yield made, key
    made.state.memos_system.close()


def preflight(http, origin):
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-memos-user",
    }
    return http.options("/v1/responses", headers=headers)


def test_a_preflight_needs_no_key_and_the_request_does(app):
    made, key = app
    http = TestClient(made)
    allowed = preflight(http, ORIGIN)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == ORIGIN
    assert "authorization" in allowed.headers["access-control-allow-headers"].lower()
    foreign = preflight(http, "https://evil.example")
    assert "access-control-allow-origin" not in foreign.headers
    denied = http.get("/v1/memory/cubes", headers={"Origin": ORIGIN})
    assert denied.status_code == 401
    assert denied.headers["access-control-allow-origin"] == ORIGIN  # the page can read the reason
    sent = {"Origin": ORIGIN, "Authorization": f"Bearer {key}"}
    read = http.get("/v1/memory/cubes", headers=sent)
    assert read.status_code == 200
    assert read.headers["access-control-allow-origin"] == ORIGIN


def test_our_routes_stand_in_front_of_vllms_store(app):
    made, key = app
    http = TestClient(made)
    for method in ("GET", "DELETE"):
        missing = http.request(
            method, "/v1/responses/resp_1", headers={"Authorization": f"Bearer {key}"}
        )
        assert missing.status_code == 404
        assert missing.json()["error"]["code"] == "memory_not_found"


def test_an_unparsable_message_is_refused_in_anthropics_envelope(app):
    made, key = app
    refused = TestClient(made).post("/v1/messages", json={}, headers={"x-api-key": key})
    assert refused.status_code == 400
    assert refused.json()["error"]["type"] == "invalid_request_error"
