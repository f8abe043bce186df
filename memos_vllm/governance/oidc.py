"""JWTs of OIDC issuers: verified, and mapped to a principal by the configuration alone.

The issuer is looked up by `iss` in the configuration; then its keys, algorithms and audience count, never
what the token's header says of keys.  A token names a tenant only by a value that the configuration
maps; its principal is bound to its person, like that of a person token.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jwt

from memos_vllm.config.oidc import OidcIssuer
from memos_vllm.cube.ids import PersonId, TenantId
from memos_vllm.errors import BadRequest, Unauthorized
from memos_vllm.governance.jwks import Jwks
from memos_vllm.governance.principal import PERSONAL, Principal, Role, Scope, check_person

_LONGEST_TOKEN = 16_384  # characters
_REQUIRED = ("iss", "aud", "exp")
_MALFORMED = (
    jwt.PyJWTError,
    ValueError,
    TypeError,
    OverflowError,  # a time that is infinite
    RecursionError,
    BadRequest,
)
_RANK = (Role.READER, Role.WRITER, Role.ADMIN)


class OidcIssuers:
    def __init__(self, issuers: Sequence[OidcIssuer]) -> None:
        self._issuers = {each.issuer: (each, Jwks(each)) for each in issuers}

    def __bool__(self) -> bool:
        return bool(self._issuers)

    @staticmethod
    def is_jwt(text: str) -> bool:
        return text.count(".") == 2 and text.startswith("ey")

    def authenticate(self, token: str) -> Principal:
        """Principal of a token. Blocks where keys have to be fetched.

        Raises:
            Unauthorized: it does not hold; the causes look the same.
            IdentityUnavailable: the issuer's keys are not known.
        """
        if len(token) > _LONGEST_TOKEN:
            raise _invalid()
        try:
            header = jwt.get_unverified_header(token)
            unverified = jwt.decode(token, options={"verify_signature": False})
            issuer = unverified.get("iss")
            known = self._issuers.get(issuer) if isinstance(issuer, str) else None
            if known is None:
                raise _invalid()
            config, keys = known
            claims = _verified(config, keys, token, header)
            return _principal(config, claims, token)
        except _MALFORMED as error:
            raise _invalid() from error


def _verified(
    config: OidcIssuer, keys: Jwks, token: str, header: Mapping[str, Any]
) -> dict[str, Any]:
    algorithm, kid = header.get("alg"), header.get("kid")
    kind = str(header.get("typ") or "jwt").lower().removeprefix("application/")
    if algorithm not in config.algorithms or "crit" in header:
        raise _invalid()
    if kind not in {each.lower() for each in config.types}:
        raise _invalid()
    if kid is not None and not isinstance(kid, str):
        raise _invalid()
    found = keys.find(kid)
    if found is None or found.algorithm not in (None, algorithm):
        raise _invalid()
    claims: dict[str, Any] = jwt.decode(
        token,
        found.key,
        algorithms=[str(algorithm)],
        audience=list(config.audience),
        issuer=config.issuer,
        leeway=config.leeway_seconds,
        options={"require": [*_REQUIRED, *config.required_claims]},
    )
    begins = float(claims.get("iat", time.time()))
    if not float(claims["exp"]) - begins <= config.longest_seconds:
        raise _invalid()
    return claims


def _principal(config: OidcIssuer, claims: Mapping[str, Any], token: str) -> Principal:
    person = _claim(claims, config.person_claim)
    if not isinstance(person, str) or not person:
        raise _invalid()
    role = _role(config, claims)
    digest = hashlib.sha256(token.encode()).hexdigest()
    return Principal(
        TenantId(_tenant(config, claims)),
        role,
        f"oidc-{hashlib.sha256(config.issuer.encode()).hexdigest()[:12]}",
        PersonId(check_person(config.person_prefix + person)),
        scopes=_scopes(config, claims, role),
        token_id=f"oidc_{digest[:24]}",
        expires_us=int(float(claims["exp"]) + config.leeway_seconds) * 1_000_000,
    )


def _tenant(config: OidcIssuer, claims: Mapping[str, Any]) -> str:
    if config.tenant is not None:
        return config.tenant
    named = _claim(claims, config.tenant_claim or "")
    found = config.tenants.get(named) if isinstance(named, str) else None
    if found is None:
        raise _invalid()
    return found


def _role(config: OidcIssuer, claims: Mapping[str, Any]) -> Role:
    if config.role_claim is None:
        return Role(config.role)
    named = _words(_claim(claims, config.role_claim))
    found = [Role(config.roles[word]) for word in named if word in config.roles]
    return max(found, key=_RANK.index, default=Role(config.role))


def _scopes(config: OidcIssuer, claims: Mapping[str, Any], role: Role) -> frozenset[Scope] | None:
    """None: every route of the role, which only an admin's identity gets."""
    if config.scope_claim is None:
        return None if role is Role.ADMIN else PERSONAL
    named = [config.scopes.get(word, word) for word in _words(_claim(claims, config.scope_claim))]
    return frozenset(scope for scope in PERSONAL if str(scope) in named)


def _claim(claims: Mapping[str, Any], name: str) -> object:
    """A claim by its name, or by a path with dots (`realm_access.roles`)."""
    if name in claims:
        return claims[name]
    found: object = claims
    for part in name.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return None
        found = found[part]
    return found


def _words(value: object) -> list[str]:
    if isinstance(value, str):
        return value.split()
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def _invalid() -> Unauthorized:
    return Unauthorized(
        "the token is not valid: its issuer, audience, signature, time, tenant or person does not hold"
    )
