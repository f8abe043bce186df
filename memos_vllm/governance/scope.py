"""Scopes of stored KV: a person or a tenant, as an HMAC that only this server can compute.

    <hmac of tenant and person>[/<hmac of the client's own salt>]

The part before the slash is a folder name, so that all KV of one person can be erased; a client's
salt narrows a scope further and cannot widen it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from memos_vllm.cube.ids import SHARED
from memos_vllm.governance.principal import Principal
from memos_vllm.governance.salt import Isolation, cache_salt


@dataclasses.dataclass(frozen=True)
class Scopes:
    """Scope names under the server's secret."""

    secret: bytes | Callable[[], tuple[bytes, ...]]
    """One secret, or what gives all of them, the newest first: a rotation adds one."""
    isolation: Isolation
    generation: Callable[[Principal], int] = lambda principal: 0
    """Number of the last erasure, as of the principal's epoch; 0: none."""

    def person(self, principal: Principal, client_salt: str | None = None) -> str:
        return self._scope(self._secrets()[0], principal, client_salt)

    def tenant(self, principal: Principal, client_salt: str | None = None) -> str:
        return self._scope(self._secrets()[0], _tenant(principal), client_salt)

    def every_person(self, principal: Principal) -> list[str]:
        """The person's scope under each secret: what a deletion has to reach."""
        return [self._scope(secret, principal, None) for secret in self._secrets()]

    def older(self, principal: Principal, client_salt: str | None) -> list[dict[str, str]]:
        """For each older secret, the scopes of person and tenant: newest name → older one."""
        secrets = self._secrets()
        who = (principal, _tenant(principal))
        names = [[self._scope(secret, each, client_salt) for each in who] for secret in secrets]
        return [dict(zip(names[0], before, strict=True)) for before in names[1:]]

    def _secrets(self) -> tuple[bytes, ...]:
        return (self.secret,) if isinstance(self.secret, bytes) else self.secret()

    def _scope(self, secret: bytes, principal: Principal, client_salt: str | None) -> str:
        generation = self.generation(principal)
        scope = cache_salt(secret, principal, self.isolation, None, generation)
        if not client_salt:
            return scope
        own = cache_salt(secret, principal, self.isolation, client_salt, generation)
        return f"{scope}/{own}"


def _tenant(principal: Principal) -> Principal:
    return dataclasses.replace(principal, person=SHARED)
