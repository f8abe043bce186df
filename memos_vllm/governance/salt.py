"""`cache_salt` of the engine's prefix cache, derived from the principal, never taken from a client.

Requests share blocks only under equal salts: with a salt per person, no other person can hit or time
a cached prompt.  A client's salt narrows the sharing further and cannot widen it.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import Literal

from memos_vllm.governance.principal import Principal

IsolationKind = Literal["person", "tenant"]
Isolation = IsolationKind | Callable[[str], IsolationKind]
"""Of every tenant, or by tenant."""


def cache_salt(
    secret: bytes,
    principal: Principal,
    isolation: Isolation,
    client_salt: str | None,
    generation: int = 0,
) -> str:
    """64 hex characters: HMAC-SHA256 over tenant, person (by `isolation`) and the client's salt.

    Args:
        generation: number of the person's last erasure; blocks of an earlier one never hit. 0: none.
    """
    kind = isolation if isinstance(isolation, str) else isolation(principal.tenant)
    person = principal.person if kind == "person" else ""
    parts = [principal.tenant, person, client_salt or ""]
    parts += [str(generation)] if generation else []
    message = joined("memos-cache-salt-1", *parts)
    return hmac.new(secret, message, hashlib.sha256).hexdigest()


def composed(*parts: str) -> str:
    """SHA-256, in hex, of a key that is made of several parts."""
    return hashlib.sha256(joined(*parts)).hexdigest()


def joined(*parts: str) -> bytes:
    """The parts in one message, each preceded by its length: other parts give another message."""
    message = b""
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        message += len(data).to_bytes(8, "big") + data
    return message
