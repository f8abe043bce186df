"""Person tokens: signed, short-lived, for one person of a tenant and a list of scopes.

A token is `pt-memos-` and a JWT (HS256, no other algorithm).  The signing keys are derived from a secret
of the installation, one for each `kid`, so that a new `kid` replaces them while the tokens of the older
one still count.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import secrets as random
from collections.abc import Iterable, Sequence
from typing import Any

import jwt

from memos_vllm.errors import BadRequest, Unauthorized
from memos_vllm.governance.principal import Scope
from memos_vllm.governance.salt import joined

PREFIX = "pt-memos-"
LONGEST_SECONDS = 24 * 3600
_ALGORITHM = "HS256"
_AUDIENCE = "memos-person"
_LONGEST_TOKEN = 4096  # characters
_REQUIRED = ("exp", "iat", "jti", "sub", "aud", "tenant", "key", "scope")


@dataclasses.dataclass(frozen=True, slots=True)
class TokenClaims:
    id: str
    tenant: str
    person: str
    key_id: str
    """Of the key that made the token."""
    scopes: frozenset[Scope]
    expires_us: int


def is_token(text: str) -> bool:
    return text.startswith(PREFIX)


def new_kid() -> str:
    return random.token_hex(8)


def sign(secret: bytes, kid: str, claims: TokenClaims, issued_us: int) -> str:
    payload = {
        "jti": claims.id,
        "aud": _AUDIENCE,
        "tenant": claims.tenant,
        "sub": claims.person,
        "key": claims.key_id,
        "scope": " ".join(sorted(claims.scopes)),
        "iat": issued_us // 1_000_000,
        "exp": claims.expires_us // 1_000_000,
    }
    key = _signing_key(secret, kid)
    return PREFIX + jwt.encode(payload, key, algorithm=_ALGORITHM, headers={"kid": kid})


def verify(secrets: Sequence[bytes], kids: Sequence[str], token: str) -> TokenClaims:
    """Claims of a token that one of these signing keys made and that has not expired.

    Args:
        secrets: of the installation, the newest first.
        kids: of signing keys that count.

    Raises:
        Unauthorized: anything else; the causes look the same.
    """
    try:
        if len(token) > _LONGEST_TOKEN:
            raise _invalid()
        text = token.removeprefix(PREFIX)
        kid = jwt.get_unverified_header(text).get("kid")
        if not isinstance(kid, str) or kid not in kids:
            raise _invalid()
        payload = _decoded(text, [_signing_key(secret, kid) for secret in secrets])
        return TokenClaims(
            payload["jti"],
            payload["tenant"],
            payload["sub"],
            payload["key"],
            frozenset(Scope(word) for word in payload["scope"].split()),
            int(payload["exp"]) * 1_000_000,
        )
    except (jwt.InvalidTokenError, ValueError) as error:
        raise _invalid() from error


def _decoded(text: str, keys: Sequence[bytes]) -> dict[str, Any]:
    """Payload under the first key that fits. Raises InvalidTokenError."""
    for place, key in enumerate(keys):
        try:
            payload: dict[str, Any] = jwt.decode(
                text,
                key,
                algorithms=[_ALGORITHM],
                audience=_AUDIENCE,
                options={"require": list(_REQUIRED)},
            )
            return payload
        except jwt.InvalidSignatureError:
            if place == len(keys) - 1:
                raise
    raise jwt.InvalidSignatureError


def check_scopes(wanted: Iterable[str], among: Iterable[Scope] = tuple(Scope)) -> frozenset[Scope]:
    """Raises BadRequest: an unknown scope, or none."""
    known = {str(scope) for scope in among}
    unknown = sorted(set(wanted) - known)
    if unknown or not (scopes := frozenset(Scope(word) for word in wanted)):
        named = f"unknown scope {unknown[0]!r}" if unknown else "no scope is given"
        raise BadRequest(f"{named}: scopes are {', '.join(sorted(known))}", param="scopes")
    return scopes


def _signing_key(secret: bytes, kid: str) -> bytes:
    return hmac.new(secret, joined("memos-person-token-1", kid), hashlib.sha256).digest()


def _invalid() -> Unauthorized:
    return Unauthorized("the person token is not valid: it is forged, expired or revoked")
