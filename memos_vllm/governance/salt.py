"""`cache_salt` of the engine's prefix cache, derived from the principal, never taken from a client.

Requests share blocks only under equal salts: with a salt per person, no other person can hit or time
a cached prompt.  A client's salt narrows the sharing further and cannot widen it.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Literal

from memos_vllm.governance.principal import Principal


def cache_salt(
    secret: bytes,
    principal: Principal,
    isolation: Literal["person", "tenant"],
    client_salt: str | None,
) -> str:
    """64 hex characters: HMAC-SHA256 over tenant, person (by `isolation`) and the client's salt.

    Each part is preceded by its length, so that different triples give different messages.
    """
    person = principal.person if isolation == "person" else ""
    message = b""
    for part in ("memos-cache-salt-1", principal.tenant, person, client_salt or ""):
        data = part.encode("utf-8", "surrogatepass")
        message += len(data).to_bytes(8, "big") + data
    return hmac.new(secret, message, hashlib.sha256).hexdigest()
