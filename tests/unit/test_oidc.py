"""JWTs of OIDC issuers, with real keys and a real JWKS server on loopback."""

from __future__ import annotations

import base64
import json
import time

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from pydantic import ValidationError

from memos_vllm.config.oidc import OidcIssuer, check_issuers
from memos_vllm.errors import IdentityUnavailable, Unauthorized
from memos_vllm.governance.jwks import Jwks
from memos_vllm.governance.principal import PERSONAL, Role, Scope
from tests.issuer import AUDIENCE, KEYS, OTHER, RSA, Issuer, jwk


@pytest.fixture
def issuer():
    made = Issuer()
    yield made
    made.close()


@pytest.mark.parametrize("kid", KEYS)
def test_a_token_signed_by_each_kind_of_key_is_its_person_s(issuer, kid):
    found = issuer.issuers().authenticate(issuer.token(kid))
    assert (found.tenant, found.person, found.role) == ("acme", "ann", Role.WRITER)
    assert found.scopes == PERSONAL
    assert found.token_id, "it is bound to its person"
    assert found.expires_us <= (time.time() + 301) * 1e6


def forged(issuer):
    """Tokens that do not hold, by what is wrong with them."""
    public = RSA.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )

    def by_hand(header, body=None, signature=b""):
        body = body or {"iss": issuer.url, "aud": AUDIENCE, "sub": "ann", "exp": time.time() + 9}
        parts = [json.dumps(header).encode(), json.dumps(body).encode()]
        return ".".join(
            base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in (*parts, signature)
        )

    def hmac_with_public_key():
        import hashlib
        import hmac

        text = by_hand({"alg": "HS256", "kid": "rsa", "typ": "JWT"}).rpartition(".")[0]
        digest = hmac.new(public, text.encode(), hashlib.sha256).digest()
        return f"{text}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"

    now = time.time()
    good = issuer.token()
    head, body, signature = good.split(".")
    evil_jwk = jwk(OTHER, "RS256", "rsa")
    return {
        "another issuer": issuer.token(iss="https://evil.example"),
        "no issuer": issuer.token(iss=None),
        "a list of issuers": issuer.token(iss=[issuer.url]),
        "the issuer with a slash": issuer.token(iss=issuer.url + "/"),
        "another audience": issuer.token(aud="other"),
        "no audience": issuer.token(aud=None),
        "expired": issuer.token(exp=now - 2),
        "no end": issuer.token(exp=None),
        "an end that is text": issuer.token(exp="never"),
        "an end in infinity": issuer.token(exp=1e300),
        "an endless life": issuer.token(exp=float("inf")),
        "an end of 400 digits": issuer.token(exp=10**400),
        "a life of ten years": issuer.token(exp=now + 10 * 365 * 86400),
        "not yet": issuer.token(nbf=now + 60),
        "issued in the future": issuer.token(iat=now + 60),
        "another key": issuer.token(key=OTHER),
        "unknown kid": issuer.token(headers={"kid": "none"}),
        "kid of another key": issuer.token(headers={"kid": "ec"}),
        "no kid among several": issuer.token(headers={"kid": None}),
        "kid that is a path": issuer.token(headers={"kid": "../../keys"}),
        "alg none": by_hand({"alg": "none", "kid": "rsa"}),
        "alg None": by_hand({"alg": "None", "kid": "rsa"}),
        "no alg": by_hand({"kid": "rsa"}),
        "HS256 with the public key": hmac_with_public_key(),
        "PS256, not configured": issuer.token(algorithm="PS256"),
        "key in its header": issuer.token(key=OTHER, headers={"jwk": evil_jwk}),
        "address in its header": issuer.token(key=OTHER, headers={"jku": "http://127.0.0.1:9/"}),
        "critical extension": issuer.token(headers={"crit": ["x"], "x": 1}),
        "a logout token": issuer.token(headers={"typ": "logout+jwt"}),
        "changed body": f"{head}.{base64.urlsafe_b64encode(b'{}').decode()}.{signature}",
        "no signature": f"{head}.{body}.",
        "no person": issuer.token(sub=None),
        "empty person": issuer.token(sub=""),
        "person that is a number": issuer.token(sub=None, person=7),
        "person with a newline": issuer.token(sub="ann\nbob"),
        "person with a NUL": issuer.token(sub="ann\x00"),
        "long person": issuer.token(sub="a" * 257),
        "huge": issuer.token(filler="x" * 20_000),
        "deep body": f"{head}.{base64.urlsafe_b64encode(b'[' * 9000).decode()}.{signature}",
        "no JSON": "eyJ.eyJ.x",
        "surrogate": "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJcdWQ4MDAifQ.x",
    }


def refused(issuers, token):
    try:
        issuers.authenticate(token)
    except Unauthorized as error:
        return error.message
    return None


def test_every_token_that_does_not_hold_is_refused_alike(issuer):
    issuers = issuer.issuers()
    assert issuers.authenticate(issuer.token())
    messages = set()
    for name, token in forged(issuer).items():
        message = refused(issuers, token)
        assert message is not None, f"accepted: {name}"
        messages.add(message)
    assert len(messages) == 1
    assert issuer.fetches == 1, "an unknown kid fetches at most every `jwks_retry_seconds`"


def test_names_of_people_are_taken_as_they_are(issuer):
    issuers = issuer.issuers(person_claim="email", person_prefix="corp:")
    for name in ("ann@x.org", "жé 漢", "a/b:c'\"%_", "pt-memos-", "key:1"):
        assert issuers.authenticate(issuer.token(email=name)).person == f"corp:{name}"


def test_a_token_names_a_tenant_only_by_a_value_that_is_configured(issuer):
    issuers = issuer.issuers(tenant_claim="org.id", tenants={"o-1": "acme", "o-2": "globex"})
    for value, tenant in (("o-1", "acme"), ("o-2", "globex")):
        assert issuers.authenticate(issuer.token(org={"id": value})).tenant == tenant
    for claims in ({}, {"org": "acme"}, {"org": {"id": "acme"}}, {"org": {"id": ["o-1"]}}):
        with pytest.raises(Unauthorized):
            issuers.authenticate(issuer.token(**claims))
    bound = issuer.issuers()
    assert bound.authenticate(issuer.token(tenant="globex")).tenant == "acme"


def test_roles_and_scopes_come_from_what_is_configured(issuer):
    issuers = issuer.issuers(
        role_claim="realm_access.roles",
        roles={"boss": "admin", "guest": "reader"},
        role="reader",
        scope_claim="scope",
        scopes={"mem:r": "memory.read"},
    )
    token = issuer.token(
        realm_access={"roles": ["x", "boss", "guest"]}, scope="mem:r chat nonsense"
    )
    found = issuers.authenticate(token)
    assert found.role is Role.ADMIN
    assert found.scopes == {Scope.READ, Scope.CHAT}
    found = issuers.authenticate(issuer.token(realm_access={"roles": ["admin"]}))
    assert (found.role, found.scopes) == (Role.READER, frozenset())


def test_required_claims_and_types_are_asked_for(issuer):
    issuers = issuer.issuers(required_claims=("jti",), types=("at+jwt",))
    with pytest.raises(Unauthorized):
        issuers.authenticate(issuer.token(jti="1"))
    with pytest.raises(Unauthorized):
        issuers.authenticate(issuer.token(headers={"typ": "at+jwt"}))
    assert issuers.authenticate(issuer.token(jti="1", headers={"typ": "application/at+JWT"}))


@pytest.fixture
def clock(monkeypatch):
    """A list with the seconds that have passed besides."""
    passed = [0.0]
    monkeypatch.setattr(
        "memos_vllm.governance.jwks.monotonic", lambda: time.monotonic() + passed[0]
    )
    return passed


def test_a_rotated_key_is_found_and_a_removed_one_ends(issuer, clock):
    issuers = issuer.issuers()
    issuers.authenticate(issuer.token())
    new = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    issuer.keys = [jwk(new, "RS256", "next")]
    rotated = issuer.token("next", key=new)
    clock[0] += 11
    assert issuers.authenticate(rotated).person == "ann"
    with pytest.raises(Unauthorized):
        issuers.authenticate(issuer.token())


def test_known_keys_count_on_while_the_issuer_is_away_and_then_end(issuer, clock):
    issuers = issuer.issuers(jwks_stale_seconds=3600, jwks_url=f"{issuer.url}/keys")
    issuers.authenticate(issuer.token())
    issuer.status = 503
    clock[0] += 1800
    assert issuers.authenticate(issuer.token())
    assert issuer.fetches == 2, "it was asked again"
    issuer.status, issuer.body = 200, b"<html>"
    assert issuers.authenticate(issuer.token())
    assert issuer.fetches == 2, "and not for each token"
    clock[0] += 1900
    with pytest.raises(IdentityUnavailable):
        issuers.authenticate(issuer.token())
    issuer.body = None
    clock[0] += 11
    assert issuers.authenticate(issuer.token())


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"keys": 1}', b"[" * 100_000, b'{"keys": [' + b"1," * 2**20]
)
def test_what_is_no_set_of_keys_is_an_issuer_that_does_not_answer(issuer, body):
    issuer.body = body or b" "
    with pytest.raises(IdentityUnavailable):
        issuer.issuers(jwks_url=f"{issuer.url}/keys").authenticate(issuer.token())


def test_keys_for_encryption_secrets_and_weak_keys_are_left_out(issuer):
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    issuer.keys = [
        jwk(RSA, "RS256", "enc", use="enc"),
        jwk(weak, "RS256", "weak"),
        {"kty": "oct", "k": "c2VjcmV0", "kid": "oct"},
        {"kty": "RSA", "kid": "damaged"},
        jwk(RSA, "RS256", "wrap", key_ops=["wrapKey"]),
        jwk(RSA, "RS256", "rsa", alg="RS512"),
        7,
    ]
    assert sorted(Jwks(issuer.config()).fetch()) == ["rsa"]
    with pytest.raises(Unauthorized):
        issuer.issuers().authenticate(issuer.token())


@pytest.mark.parametrize(
    "wrong",
    [
        {"algorithms": ["HS256"]},
        {"algorithms": ["none"]},
        {"issuer": "http://issuer.example"},
        {"jwks_url": "http://issuer.example/keys"},
        {"jwks_url": "file:///etc/passwd"},
        {"tenant": None},
        {"tenant_claim": "org", "tenant": None},
        {"audience": []},
    ],
)
def test_a_configuration_that_is_not_safe_is_refused(wrong):
    tree = {"issuer": "https://i.example", "audience": ["a"], "tenant": "acme"}
    assert OidcIssuer.model_validate(tree)
    with pytest.raises(ValidationError):
        OidcIssuer.model_validate(tree | wrong)


def test_two_issuers_of_one_tenant_cannot_name_the_same_person():
    def made(number, **more):
        tree = {"issuer": f"https://i{number}.example", "audience": ["a"], "tenant": "acme"}
        return OidcIssuer.model_validate(tree | more)

    check_issuers((made(1), made(2, tenant="globex")))
    check_issuers((made(1, person_prefix="a:"), made(2, person_prefix="b:")))
    for pair in ((made(1), made(2)), (made(1), made(1, person_prefix="a:"))):
        with pytest.raises(ValueError, match=r"prefix|twice"):
            check_issuers(pair)
    with pytest.raises(ValueError, match="prefix"):
        check_issuers((made(1, person_prefix="a"), made(2, person_prefix="ab")))
