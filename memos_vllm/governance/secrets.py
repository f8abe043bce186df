"""API keys: generated, shown once, stored as a digest, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from typing import NamedTuple

_FORM = re.compile(r"^sk-memos-([0-9a-f]{12})-([A-Za-z0-9_-]{43})$")


class FreshKey(NamedTuple):
    id: str
    key: str
    digest: str


def make_key(key_id: str | None = None) -> FreshKey:
    """Generate a key `sk-memos-<id>-<256 random bits>`; only the digest of the whole is stored.

    Args:
        key_id: of the key that gets a new secret; None: a new key.
    """
    key_id, secret = key_id or secrets.token_hex(6), secrets.token_urlsafe(32)
    key = f"sk-memos-{key_id}-{secret}"
    return FreshKey(key_id, key, digest(key))


def key_id(key: str) -> str | None:
    """The id inside a key `sk-memos-…`, else None."""
    match = _FORM.match(key)
    return match.group(1) if match else None


def digest(key: str) -> str:
    """SHA-256 of a key. No key stretching: a key holds 256 random bits."""
    return hashlib.sha256(key.encode()).hexdigest()


def matches(key: str, stored_digest: str) -> bool:
    return hmac.compare_digest(digest(key), stored_digest)
