"""JWTs of OIDC issuers over HTTP, beside keys; `memos doctor`."""

from __future__ import annotations

import time

import pytest
from fastapi.testclient import TestClient

from memos_vllm.api.app import create_app
from memos_vllm.api.identity import Authenticator
from memos_vllm.cli.oidc_check import check_oidc
from memos_vllm.governance.principal import Role
from memos_vllm.system import MemorySystem
from tests.conftest import make_config
from tests.issuer import OTHER, Issuer


@pytest.fixture
def issuer():
    made = Issuer()
    yield made
    made.close()


@pytest.fixture
def http(issuer, tmp_path):
    entry = issuer.config(role_claim="roles", roles={"admin": "admin"}).model_dump()
    system = MemorySystem(make_config(tmp_path, governance={"oidc": [entry]})).open()
    with TestClient(create_app(system), client=("127.0.0.1", 1)) as client:
        client.system = system
        yield client
    system.close()


def test_a_jwt_beside_keys_acts_for_its_person_alone(issuer, http):
    body = {"payload": {"type": "explicit", "content": "Ann likes tea."}}
    mine = {"Authorization": f"Bearer {issuer.token()}"}
    assert http.post("/v1/memory/cubes", headers=mine, json=body).status_code == 201
    other = http.get("/v1/memory/cubes", headers={**mine, "X-Memos-User": "bob"})
    assert other.status_code == 403
    shared = http.post("/v1/memory/cubes", headers=mine, json=body | {"meta": {"shared": True}})
    assert shared.status_code == 403
    assert http.get("/v1/memory/audit", headers=mine).status_code == 403
    admin = {"Authorization": f"Bearer {issuer.token(roles=['admin'], sub='eve')}"}
    assert http.get("/v1/memory/audit", headers=admin).status_code == 200
    assert http.get("/metrics", headers=admin).status_code == 403, "not the operator's tenant"
    _, key = http.system.keys.create("acme", Role.WRITER)
    by_key = {"Authorization": f"Bearer {key}", "X-Memos-User": "ann"}
    assert len(http.get("/v1/memory/cubes", headers=by_key).json()["cubes"]) == 1


def test_a_bad_jwt_is_a_401_that_says_so_and_none_needs_one(issuer, http):
    bare = http.get("/v1/memory/cubes")
    assert (bare.status_code, bare.headers["www-authenticate"]) == (401, "Bearer")
    bad = http.get(
        "/v1/memory/cubes", headers={"Authorization": f"Bearer {issuer.token(key=OTHER)}"}
    )
    assert bad.status_code == 401
    assert bad.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert bad.json()["error"]["code"] == "invalid_api_key"


def test_without_the_issuer_s_keys_a_jwt_is_a_503(issuer, http):
    issuer.status = 500
    reply = http.get("/v1/memory/cubes", headers={"Authorization": f"Bearer {issuer.token()}"})
    assert reply.status_code == 503


def test_a_jwt_that_was_just_checked_ends_at_its_time(issuer, system, monkeypatch):
    config = system.config.governance.model_copy(update={"oidc": (issuer.config(),)})
    authenticator = Authenticator(config, system.keys)
    token = issuer.token()
    authenticator.authenticate(token)
    assert authenticator.keys_enabled_cached() is True
    assert authenticator.cached(token) is not None
    monkeypatch.setattr("memos_vllm.api.identity.now_us", lambda: int(time.time() + 301) * 10**6)
    assert authenticator.cached(token) is None


def test_doctor_checks_an_issuer(issuer, tmp_path):
    config = make_config(tmp_path, governance={"oidc": [issuer.config().model_dump()]})
    (check,) = check_oidc(config)
    assert (check.status, check.found) == ("ok", "3 keys; tenant acme")
    issuer.keys = []
    (check,) = check_oidc(config)
    assert check.status == "broken"
    issuer.status = 404
    (check,) = check_oidc(config)
    assert check.status == "broken"
    assert "404" in check.found
