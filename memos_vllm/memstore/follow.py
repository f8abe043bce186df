"""Look for newer versions of the bundles that follow them: the job `store` of the durable queue."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from memos_vllm.cube.bundle import Follow
from memos_vllm.errors import MemosError, VaultUnavailable
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.memstore.store import MemStore
from memos_vllm.vault.bundle_rows import Installed

if TYPE_CHECKING:
    from memos_vllm.system import MemorySystem

log = logging.getLogger(__name__)
SUBJECT = "all"
KEY = "store"
"""Stands for the key in the audit log of what the server does by itself."""


class Following:
    def __init__(self, system: MemorySystem) -> None:
        self._system = system

    def job(self, subject: str) -> None:
        """Handler of the job `store`. Raises VaultUnavailable."""
        for tenant, found in self._system.bundles.following():
            self._follow(Principal(tenant, Role.ADMIN, KEY), found)

    def _follow(self, principal: Principal, found: Installed) -> None:
        if found.follow is Follow.NEVER:
            return
        store = MemStore(self._system)
        try:
            done = store.check(principal, store.registry(found.source)[1], found.name)
        except VaultUnavailable:
            raise
        # What a registry or a publisher does wrong costs its own bundle, which stays as it is.
        except MemosError as error:
            log.warning("bundle %s of tenant %s: %s", found.name, principal.tenant, error.message)
            return
        if done is not None:
            log.info(
                "bundle %s of tenant %s: version %s, offered %s",
                found.name,
                principal.tenant,
                done.bundle.version,
                done.bundle.offered,
            )
