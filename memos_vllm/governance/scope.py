"""Scopes of stored KV: a person or a tenant, as an HMAC that only this server can compute.

    <hmac of tenant and person>[/<hmac of the client's own salt>]

The part before the slash is a folder name, so that all KV of one person can be erased; a client's
salt narrows a scope further and cannot widen it.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from memos_vllm.cube.ids import SHARED
from memos_vllm.governance.principal import Principal
from memos_vllm.governance.salt import cache_salt


@dataclasses.dataclass(frozen=True)
class Scopes:
    """Scope names under one server secret."""

    secret: bytes
    isolation: Literal["person", "tenant"]

    def person(self, principal: Principal, client_salt: str | None = None) -> str:
        return self._scope(principal, client_salt)

    def tenant(self, principal: Principal, client_salt: str | None = None) -> str:
        return self._scope(dataclasses.replace(principal, person=SHARED), client_salt)

    def _scope(self, principal: Principal, client_salt: str | None) -> str:
        scope = cache_salt(self.secret, principal, self.isolation, None)
        if not client_salt:
            return scope
        return f"{scope}/{cache_salt(self.secret, principal, self.isolation, client_salt)}"
