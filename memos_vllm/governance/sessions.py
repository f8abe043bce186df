"""Sessions of the console: sealed cookies, and tokens of their forms against CSRF.

A cookie is `nonce || AES-256-GCM(id, credential, end)`: a browser holds it and cannot read the key in it.  Every
request opens it and authenticates the credential again, so a revoked key ends its sessions.  A form's token is an
HMAC of the session's id.  All keys are derived from one secret of the installation.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import hmac
import json
import secrets as random
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from memos_vllm.cube.ids import canonical_json
from memos_vllm.errors import BadRequest, Unauthorized
from memos_vllm.governance.salt import joined

LONGEST_COOKIE = (
    3900  # characters; browsers drop cookies beyond 4096 bytes with name and attributes
)
_NONCE_BYTES = 12
_PURPOSE = b"memos-console-session-1"


@dataclasses.dataclass(frozen=True, slots=True)
class Session:
    id: str
    """Random; names the session in its forms' tokens, and in the list of ended ones."""
    credential: str
    """API key, person token or JWT; empty: the local tenant of a server without keys."""
    expires_us: int


def new_id() -> str:
    return random.token_hex(16)


def seal(secret: bytes, session: Session) -> str:
    """Encrypt a session for a cookie. Raises BadRequest: its credential is too long for one."""
    nonce = random.token_bytes(_NONCE_BYTES)
    body = canonical_json([session.id, session.credential, session.expires_us])
    sealed = AESGCM(_derived(secret, "session")).encrypt(nonce, body, _PURPOSE)
    text = base64.urlsafe_b64encode(nonce + sealed).decode().rstrip("=")
    if len(text) > LONGEST_COOKIE:
        raise BadRequest("the key or token is too long for a browser's cookie", param="key")
    return text


def opened(secrets: Sequence[bytes], text: str, at_us: int) -> Session:
    """The session in a cookie.

    Args:
        secrets: of the installation, the newest first.

    Raises:
        Unauthorized: no secret opens it, or it has ended; the causes look the same.
    """
    try:
        if len(text) > LONGEST_COOKIE:
            raise _invalid()
        data = base64.urlsafe_b64decode(text.encode() + b"==")
    except (binascii.Error, UnicodeError, ValueError) as error:
        raise _invalid() from error
    for secret in secrets:
        session = _decrypted(secret, data)
        if session is not None:
            if session.expires_us <= at_us:
                raise _invalid()
            return session
    raise _invalid()


def form_token(secret: bytes, name: str) -> str:
    """Token of the forms of a session, or of a visitor who signs in."""
    return hmac.new(_derived(secret, "form"), joined(name), hashlib.sha256).hexdigest()


def is_form_token(secrets: Sequence[bytes], name: str, token: str) -> bool:
    given = token.encode("utf-8", "surrogatepass")
    return any(hmac.compare_digest(form_token(secret, name).encode(), given) for secret in secrets)


def _decrypted(secret: bytes, data: bytes) -> Session | None:
    nonce, sealed = data[:_NONCE_BYTES], data[_NONCE_BYTES:]
    try:
        body = AESGCM(_derived(secret, "session")).decrypt(nonce, sealed, _PURPOSE)
    except (InvalidTag, ValueError):
        return None
    name, credential, expires_us = json.loads(body)
    return Session(name, credential, expires_us)


def _derived(secret: bytes, use: str) -> bytes:
    return hmac.new(secret, joined("memos-console-1", use), hashlib.sha256).digest()


def _invalid() -> Unauthorized:
    return Unauthorized("the session is not valid: it is forged or has ended; sign in again")
