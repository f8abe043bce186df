"""`cache_salt` of the engine's prefix cache: derived here, from who asks, never taken from a client.

Blocks are shared only under equal salts, so a salt per person means that nobody's cached prompt can
be hit, or timed, by anybody else.  A client's own salt narrows this further and cannot widen it.
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

    Each part is preceded by its length, so that no two different triples give one message.
    """
    person = principal.person if isolation == "person" else ""
    message = b""
    for part in ("memos-cache-salt-1", principal.tenant, person, client_salt or ""):
        data = part.encode("utf-8", "surrogatepass")
        message += len(data).to_bytes(8, "big") + data
    return hmac.new(secret, message, hashlib.sha256).hexdigest()
