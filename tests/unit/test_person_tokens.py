"""Person tokens, scopes of keys, and rotation of secrets."""

from __future__ import annotations

import base64
import dataclasses
import json
import re

import jwt
import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from memos_vllm.api.access import scopes_of
from memos_vllm.api.app import create_app
from memos_vllm.api.auth import AuthMiddleware
from memos_vllm.api.identity import Authenticator
from memos_vllm.config.tree import GovernanceConfig
from memos_vllm.cube.ids import now_us
from memos_vllm.cube.model import Access, ExplicitPayload, Item, NewCube, NewMeta
from memos_vllm.errors import BadRequest, Forbidden, NotFound, Unauthorized, VaultUnavailable
from memos_vllm.governance import tokens
from memos_vllm.governance.principal import PERSONAL, Role, Scope
from memos_vllm.learning.saving import not_written
from memos_vllm.options import MemoryOptions
from memos_vllm.ports import Chat
from tests.conftest import principal

ALL = [str(scope) for scope in PERSONAL]
CUBE = {"payload": {"type": "explicit", "content": "Ann likes tea."}}


@pytest.fixture
def writer(system):
    _, key = system.keys.create("acme", Role.WRITER)
    return key


@pytest.fixture
def http(system, writer):
    with TestClient(create_app(system), client=("127.0.0.1", 1)) as client:
        yield client


def bearer(key, **headers):
    return {"Authorization": f"Bearer {key}", **headers}


def token_for(http, key, person="ann", scopes=ALL, **body):
    url = f"/v1/memory/people/{person}/tokens"
    made = http.post(url, headers=bearer(key), json={"scopes": scopes, **body})
    assert made.status_code == 201, made.text
    return made.json()["token"]


def test_a_token_acts_as_its_person_and_can_name_no_other(http, system, writer):
    token = token_for(http, writer)
    made = http.post("/v1/memory/cubes", headers=bearer(token), json=CUBE)
    assert made.status_code == 201
    assert made.json()["meta"]["person"] == "ann"
    cube = made.json()["meta"]["id"]
    same = http.get(f"/v1/memory/cubes/{cube}", headers=bearer(token, **{"X-Memos-User": "ann"}))
    assert same.status_code == 200
    for name in ("bob", "Ann", "%61nn2"):
        other = http.get("/v1/memory/cubes", headers=bearer(token, **{"X-Memos-User": name}))
        assert other.status_code in (403,), name
    for meta in ({"person": "bob"}, {"shared": True}):
        reply = http.post("/v1/memory/cubes", headers=bearer(token), json={**CUBE, "meta": meta})
        assert reply.status_code == 403
    bobs = http.post(
        "/v1/memory/cubes", headers=bearer(writer, **{"X-Memos-User": "bob"}), json=CUBE
    ).json()["meta"]["id"]
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/versions"), ("PATCH", "")):
        body = {"json": {"priority": 1}} if method == "PATCH" else {}
        reply = http.request(
            method, f"/v1/memory/cubes/{bobs}{path}", headers=bearer(token), **body
        )
        assert reply.status_code == 404
    with pytest.raises(Forbidden):  # what `user`, `safety_identifier` and `metadata` come to
        system.keys.authenticate(token).as_person("bob")


def test_a_token_does_not_write_what_the_tenant_shares(system, http, writer):
    new = NewCube(
        meta=NewMeta(name="wiki", shared=True, access=Access(writers="tenant")),
        payload=ExplicitPayload(content=[Item(text="Closed on Mondays.")]),
    )
    cube = system.create(principal("", role=Role.ADMIN), [new])[0].meta.id
    url, patch = f"/v1/memory/cubes/{cube}", {"priority": 1}
    token = token_for(http, writer)
    assert http.get(url, headers=bearer(token)).status_code == 200
    assert http.patch(url, headers=bearer(token), json=patch).status_code == 403
    assert http.patch(url, headers=bearer(writer), json=patch).status_code == 200


def every_route(app):
    for path, operations in app.openapi()["paths"].items():
        for method in operations:
            own = path.replace("/people/{person}", "/people/ann")
            yield method.upper(), re.sub(r"\{[^}]+\}", "x", own)


@pytest.mark.parametrize("scopes", [[scope] for scope in ALL] + [ALL])
def test_each_route_answers_403_to_a_token_without_its_scope(http, writer, scopes):
    token = token_for(http, writer, scopes=scopes)
    tenant_routes = 0
    for method, path in every_route(http.app):
        needed = scopes_of(method, path)
        if method != "GET" and needed is not None and set(needed) <= set(scopes):
            continue  # it would act
        status = http.request(method, path, headers=bearer(token)).status_code
        is_allowed = needed is not None and set(needed) <= set(scopes)
        assert (status == 403) is not is_allowed, (method, path, status)
        tenant_routes += needed is None
    assert tenant_routes >= 10
    for path in ("/metrics", "/v1/memory/audit", "/v1/memory/jobs", "/v1/memory/people/ann/tokens"):
        assert http.get(path, headers=bearer(token)).status_code == 403


def test_what_a_later_version_adds_needs_a_key_without_a_list():
    for method, path in (
        ("GET", "/v1/memory/of/tomorrow"),
        ("DELETE", "/v1/memory/people/ann/tokens/x"),
        ("POST", "/v1/memory/cubes/x/distill"),
        ("POST", "/v1/memory/cubes/x/of-tomorrow"),
        ("GET", "/v1/memory/cubes/../audit"),
        ("GET", "/v1/memory"),
    ):
        assert scopes_of(method, path) is None


def test_a_forged_token_is_refused(http, system, writer):
    good = token_for(http, writer)
    head, body, signature = good.removeprefix(tokens.PREFIX).split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    kid = jwt.get_unverified_header(good.removeprefix(tokens.PREFIX))["kid"]

    def part(value):
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    bob = part({**claims, "sub": "bob"})
    forged = [
        f"{head}.{bob}.{signature}",
        f"{part({'alg': 'none', 'kid': kid})}.{bob}.",
        f"{part({'alg': 'None', 'typ': 'JWT', 'kid': kid})}.{body}.{signature}",
        *(
            jwt.encode({**claims, "sub": "bob"}, key, algorithm=algorithm, headers={"kid": each})
            for key, algorithm, each in (
                ("x" * 64, "HS256", kid),
                ("x" * 64, "HS512", kid),
                ("x" * 64, "HS256", "../../etc/passwd"),
            )
        ),
        f"{head}.{body}.",
        f"{head}.{body}",
        "",
        "é",
        "." * 5000,
        f"{part({'alg': 'HS256', 'kid': [kid]})}.{body}.{signature}",
        f"{part([1])}.{body}.{signature}",
    ]
    for text in forged:
        with pytest.raises(Unauthorized, match="forged, expired or revoked"):
            system.keys.authenticate(tokens.PREFIX + text)
    for lacking in ("exp", "jti", "tenant", "key", "scope", "aud"):
        few = {name: value for name, value in claims.items() if name != lacking}
        secret = tokens._signing_key(system.database.secret("person_tokens"), kid)
        text = jwt.encode(few, secret, algorithm="HS256", headers={"kid": kid})
        with pytest.raises(Unauthorized):
            system.keys.authenticate(tokens.PREFIX + text)
    assert system.keys.authenticate(good).person == "ann"


def test_a_token_ends_when_it_or_its_key_is_revoked_or_expires(http, system, writer):
    key_id = system.keys.authenticate(writer).key_id
    url = "/v1/memory/people/ann/tokens"
    first, second = token_for(http, writer), token_for(http, writer)
    listed = http.get(url, headers=bearer(writer)).json()["tokens"]
    assert len(listed) == 2
    assert "token" not in listed[0]
    _, other = system.keys.create("globex", Role.ADMIN)
    for foreign in (f"{url}/{listed[0]['id']}", f"/v1/memory/people/bob/tokens/{listed[0]['id']}"):
        key = other if "ann" in foreign else writer
        assert http.delete(foreign, headers=bearer(key)).status_code == 404
    assert http.delete(f"{url}/{listed[0]['id']}", headers=bearer(writer)).status_code == 200
    with pytest.raises(Unauthorized):
        system.keys.authenticate(first)
    assert system.keys.authenticate(second).token_id == listed[1]["id"]
    system.keys.revoke(key_id)
    with pytest.raises(Unauthorized):
        system.keys.authenticate(second)


def test_an_expired_token_is_not_served_from_the_cache(http, system, writer, monkeypatch):
    token = token_for(http, writer, ttl_seconds=60)
    authenticator = Authenticator(GovernanceConfig(key_cache_seconds=3600), system.keys)
    assert authenticator.authenticate(token).person == "ann"
    assert authenticator.cached(token) is not None
    later = now_us() + 61_000_000
    monkeypatch.setattr("memos_vllm.api.identity.now_us", lambda: later)
    assert authenticator.cached(token) is None

    def down(_):
        raise VaultUnavailable("down")

    monkeypatch.setattr(system.keys, "authenticate", down)
    with pytest.raises(VaultUnavailable):
        authenticator.authenticate(token)


def test_a_token_gives_no_more_than_its_key(system, http):
    _, read = system.keys.create("acme", Role.READER)
    _, key = system.keys.create("acme", Role.WRITER, scopes=["memory.read"])
    for bearer_key in (read, key):
        reply = http.post(
            "/v1/memory/people/ann/tokens", headers=bearer(bearer_key), json={"scopes": ["chat"]}
        )
        assert reply.status_code == 403
    assert system.keys.authenticate(key).scopes == {Scope.READ}
    for role in Role:
        _, wide = system.keys.create("acme", role)
        caller = system.keys.authenticate(wide)
        if role is Role.READER:
            with pytest.raises(Forbidden):
                system.keys.tokens.create(caller, "ann", ALL, 60)
        else:
            made = system.keys.authenticate(system.keys.tokens.create(caller, "ann", ALL, 60)[1])
            assert (made.role, made.scopes) == (Role.WRITER, PERSONAL)
    chat_only = system.keys.tokens.create(caller, "ann", ["chat"], 60)[1]
    assert system.keys.authenticate(chat_only).role is Role.READER


@pytest.mark.parametrize(
    "body",
    [
        {"scopes": []},
        {"scopes": ["admin"]},
        {"scopes": ["chat"], "ttl_seconds": 0},
        {"scopes": ["chat"], "ttl_seconds": 10**12},
        {"scopes": ["chat"], "tenant": "globex"},
    ],
)
def test_a_bad_request_for_a_token_is_a_400(http, writer, body):
    reply = http.post("/v1/memory/people/ann/tokens", headers=bearer(writer), json=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["message"]


@pytest.mark.parametrize("person", ["x" * 256, "a%2Fb", "a/tokens/b", "josé", "key:abc"])
def test_any_persons_name_can_have_a_token(http, system, writer, person):
    from urllib.parse import unquote

    assert system.keys.authenticate(token_for(http, writer, person)).person == unquote(person)


def test_signing_keys_rotate_while_older_tokens_count(system, http, writer, monkeypatch):
    before = token_for(http, writer)
    system.keys.tokens.rotate()
    after = token_for(http, writer)
    kids = [
        jwt.get_unverified_header(t.removeprefix(tokens.PREFIX))["kid"] for t in (before, after)
    ]
    assert kids[0] != kids[1]
    for token in (before, after):
        assert system.keys.authenticate(token).person == "ann"
    with system.database.read() as session:
        row = session.scalar(sa.text("SELECT value FROM settings WHERE key = 'person_token_kids'"))
    assert [kid for kid, _ in json.loads(row)] == kids[::-1]
    day = now_us() + (tokens.LONGEST_SECONDS + 1) * 1_000_000
    monkeypatch.setattr("memos_vllm.vault.person_tokens.now_us", lambda: day)
    system.keys.tokens.rotate()
    with system.database.read() as session:
        row = session.scalar(sa.text("SELECT value FROM settings WHERE key = 'person_token_kids'"))
    assert [kid for kid, _ in json.loads(row)][1:] == [kids[1]]


def test_two_secrets_of_a_key_work_during_the_grace_time(system, monkeypatch):
    record, old = system.keys.create("acme", Role.ADMIN, scopes=["chat"])
    rotated, new = system.keys.rotate(record.id, 3600)
    assert (rotated.id, old != new) == (record.id, True)
    both = [system.keys.authenticate(key) for key in (old, new)]
    assert both[0] == both[1]
    assert both[0].expires_us is not None
    assert both[1].expires_us is None
    with system.database.write() as session:
        session.execute(sa.text("UPDATE api_keys SET old_until_us = 1"))
    with pytest.raises(Unauthorized):
        system.keys.authenticate(old)
    assert system.keys.authenticate(new).key_id == record.id
    _, newest = system.keys.rotate(record.id, 0)
    with pytest.raises(Unauthorized):
        system.keys.authenticate(new)
    system.keys.revoke(record.id)
    for key in (old, new, newest):
        with pytest.raises(Unauthorized):
            system.keys.authenticate(key)
    for key_id in (record.id, "unknown"):
        with pytest.raises(NotFound):
            system.keys.rotate(key_id, 60)


@pytest.mark.parametrize(("sent", "kept"), [("req-7", True), ("x" * 129, False), ("", False)])
async def test_a_request_has_an_id_for_the_audit_log(system, writer, sent, kept):
    seen = []

    async def app(scope, receive, send):
        seen.append(scope["state"]["memos_principal"])

    config = system.config.governance
    auth = AuthMiddleware(app, Authenticator(config, system.keys), config)
    headers = [(b"authorization", f"Bearer {writer}".encode()), (b"x-request-id", sent.encode())]
    for _ in range(2):
        scope = {"type": "http", "method": "GET", "path": "/v1/models", "headers": headers}
        await auth(scope, None, None)
    ids = [each.request_id for each in seen]
    assert all(ids)
    assert (ids == [sent, sent]) is kept
    assert seen[0] == seen[1], "caches know a principal again"


@pytest.mark.parametrize(
    ("scopes", "text", "reason"),
    [
        ([Scope.CHAT], "My cat is called Miso.", "lacks the scope `memory.write`"),
        ([Scope.CHAT, Scope.DELETE], "My cat is called Miso.", "lacks the scope `memory.write`"),
        ([Scope.CHAT, Scope.WRITE], "Forget that I live in Paris.", "`memory.delete`"),
        ([Scope.CHAT, Scope.WRITE], "My cat is called Miso.", None),
        (list(PERSONAL), "Forget that I live in Paris.", None),
    ],
)
def test_a_chat_writes_and_forgets_only_with_the_scopes_for_it(system, scopes, text, reason):
    caller = dataclasses.replace(principal("ann"), scopes=frozenset(scopes))
    chat = Chat(
        principal=caller,
        options=MemoryOptions(),
        messages=[{"role": "user", "content": text}],
        model_name="demo",
        max_reply=None,
        prompt_limit=None,
        store=True,
    )
    found = not_written(chat, system.config.remember)
    assert found is None if reason is None else reason in (found or "")


def test_no_token_and_no_identity_reads_metrics(system):
    writer = principal("", role=Role.WRITER)
    with pytest.raises(BadRequest, match="unknown scope"):
        system.keys.tokens.create(writer, "alice", ["metrics"], 900)
    assert Scope.METRICS not in PERSONAL
