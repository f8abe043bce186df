"""Authentication and access control without an engine."""

from __future__ import annotations

import pytest

from memos_vllm.api.access import Need, need_of
from memos_vllm.api.identity import LOCAL, Authenticator, bearer, is_loopback, local_principal
from memos_vllm.config.tree import OPEN_ROUTES, GovernanceConfig
from memos_vllm.errors import BadRequest, Forbidden, Unauthorized, VaultUnavailable
from memos_vllm.governance import secrets
from memos_vllm.governance.principal import Role
from memos_vllm.governance.salt import cache_salt
from tests.conftest import principal


@pytest.mark.parametrize(
    ("method", "path", "need"),
    [
        ("GET", "/health", Need.OPEN),
        ("POST", "/health", Need.OPERATOR),
        ("POST", "/v1/chat/completions", Need.KEY),
        ("POST", "/v1/chat/completions/", Need.KEY),
        ("DELETE", "/v1/chat/completions", Need.OPERATOR),
        ("GET", "/v1/memory/cubes/x", Need.KEY),
        ("GET", "/v1/memoryx", Need.OPERATOR),
        ("POST", "/invocations", Need.KEY),
        ("POST", "/v1/load_lora_adapter", Need.OPERATOR),
        ("POST", "/sleep", Need.OPERATOR),
        ("GET", "/metrics", Need.METRICS),
        ("POST", "/metrics", Need.OPERATOR),
        ("GET", "/metrics/x", Need.OPERATOR),
        ("GET", "/v1/responses/resp_1", Need.KEY),
        ("DELETE", "/v1/responses/resp_1", Need.KEY),
        ("GET", "/v1/responses/resp_1/input_items", Need.KEY),
        ("POST", "/v1/responses/resp_1/cancel", Need.OPERATOR),
        ("POST", "/v1/conversations", Need.KEY),
        ("DELETE", "/v1/conversations/conv_1", Need.KEY),
        ("POST", "/v1/decisions", Need.OPERATOR),
        ("WEBSOCKET", "/v1/realtime", Need.OPERATOR),
        ("POST", "/a/route/of/tomorrow", Need.OPERATOR),
        ("POST", "/mcp", Need.KEY),
        ("GET", "/mcp/", Need.KEY),
        ("POST", "/mcp/x", Need.OPERATOR),
    ],
)
def test_a_route_that_is_not_listed_needs_the_operator(method, path, need):
    assert need_of(method, path, OPEN_ROUTES) is need


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "::ffff:127.0.0.1"])
def test_loopback(host):
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "10.0.0.1", "::", "", "localhost.evil.example", "127.0.0.1.nip.io"]
)
def test_not_loopback(host):
    assert not is_loopback(host)


def test_without_keys_only_local_requests_are_accepted():
    assert local_principal("127.0.0.1", {"host": "localhost:8000"}) == LOCAL
    assert (
        local_principal("::1", {"origin": "http://localhost:3000", "host": "[::1]:8000"}) == LOCAL
    )
    for peer, headers in (
        ("192.168.0.7", {}),
        ("127.0.0.1", {"origin": "https://evil.example"}),
        ("127.0.0.1", {"origin": "null"}),
        ("127.0.0.1", {"host": "rebound.example:8000"}),
    ):
        with pytest.raises(Forbidden):
            local_principal(peer, headers)


def test_a_key_is_read_from_either_header():
    assert bearer({"authorization": "Bearer abc"}) == "abc"
    assert bearer({"authorization": "bearer  abc "}) == "abc"
    assert bearer({"x-api-key": "abc"}) == "abc"
    assert bearer({"authorization": "Basic abc"}) is None


def test_keys_are_stored_as_digests_shown_once_and_revocable(system):
    record, key = system.keys.create("acme", Role.WRITER)
    assert system.keys.authenticate(key).tenant == "acme"
    with system.database.read() as session:
        import sqlalchemy as sa

        row = session.execute(sa.text("SELECT * FROM api_keys")).mappings().one()
    assert key not in str(dict(row))
    assert row["digest"] == secrets.digest(key)
    system.keys.revoke(record.id)
    with pytest.raises(Unauthorized):
        system.keys.authenticate(key)


def test_an_expired_key_and_a_forged_secret_are_refused(system):
    _, short = system.keys.create("acme", Role.READER, ttl_seconds=3600)
    with system.database.write() as session:
        import sqlalchemy as sa

        session.execute(sa.text("UPDATE api_keys SET expires_us = 1"))
    _, good = system.keys.create("acme", Role.READER)
    forged = good[:-3] + ("AAA" if not good.endswith("AAA") else "BBB")
    for key in (short, forged, "x", "sk-memos-000000000000-" + "A" * 43):
        with pytest.raises(Unauthorized, match="unknown, revoked or expired"):
            system.keys.authenticate(key)


@pytest.mark.parametrize("tenant", ["", "a/b", "-x", "x" * 64, "té", "a b"])
def test_a_tenants_name_is_plain(system, tenant):
    with pytest.raises(BadRequest):
        system.keys.create(tenant, Role.READER)


def test_a_cached_key_works_while_the_vault_is_unavailable(system, monkeypatch):
    _, key = system.keys.create("acme", Role.WRITER)
    authenticator = Authenticator(GovernanceConfig(key_cache_seconds=0), system.keys)
    known = authenticator.authenticate(key)

    def down(_: str) -> None:
        raise VaultUnavailable("down")

    monkeypatch.setattr(system.keys, "authenticate", down)
    assert authenticator.cached(key) is None
    assert authenticator.authenticate(key) == known
    with pytest.raises(VaultUnavailable):
        authenticator.authenticate("sk-memos-000000000000-" + "A" * 43)


def test_salts_depend_on_tenant_person_and_client_salt_only():
    secret = b"s" * 32
    base = cache_salt(secret, principal("alice"), "person", None)
    assert base == cache_salt(secret, principal("alice", role=Role.ADMIN), "person", None)
    others = [
        cache_salt(secret, principal("bob"), "person", None),
        cache_salt(secret, principal("alice", tenant="globex"), "person", None),
        cache_salt(secret, principal("alice"), "person", "mine"),
        cache_salt(b"t" * 32, principal("alice"), "person", None),
        # Length prefixes keep different splits of one text apart.
        cache_salt(secret, principal("lice", tenant="acmea"), "person", None),
    ]
    assert len({base, *others}) == 6
    tenant = cache_salt(secret, principal("alice"), "tenant", None)
    assert tenant == cache_salt(secret, principal("bob"), "tenant", None)
    assert len(base) <= 128
    assert not set(base) & set("@/\\\0")


@pytest.mark.parametrize("session", ["x" * 257, "a\nb", "\x00"])
def test_a_sessions_name_is_printable_and_short(session):
    with pytest.raises(BadRequest) as error:
        principal("alice").as_person(None, session)
    assert error.value.param == "session_id"


@pytest.mark.parametrize("person", ["x" * 257, "a\nb", "\x00"])
def test_a_persons_name_is_printable_and_short(person):
    with pytest.raises(BadRequest):
        principal("").as_person(person)
