"""Stored KV of each tenant on disk, bytes.

Segments lie in folders of their scope, an HMAC of tenant and person, which names neither.  So the first
order of a person in each process leaves a mark `<folder>/tenants/<digest of the tenant>/<scope>`, and a
tenant's KV is that of its marks.  It is measured in the background, at most every `_SECONDS`: a tenant can
exceed its limit by what it stores in that time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from pathlib import Path

from memos_vllm.activation.names import scope_folder

_SECONDS = 20.0
_MOST_SCOPES = 100_000


class KVQuota:
    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: of the disk tier, with `segments` in it.
        """
        self._segments, self._tenants = folder / "segments", folder / "tenants"
        self._marked: set[tuple[str, str]] = set()
        self._bytes: dict[str, tuple[float, int]] = {}
        """Tenant → (time of the measurement, bytes)."""
        self._measuring: set[str] = set()
        self._lock = threading.Lock()

    def has_room(self, tenant: str, scopes: list[str], limit: int) -> bool:
        """Whether a tenant's KV is below a limit. Never waits for a measurement but the first.

        Args:
            scopes: under which this request may store.
        """
        for scope in scopes:
            self._mark(tenant, scope_folder(scope))
        with self._lock:
            known = self._bytes.get(tenant)
            is_old = known is None or time.monotonic() - known[0] > _SECONDS
            starts = is_old and tenant not in self._measuring
            if starts:
                self._measuring.add(tenant)
        if known is None:
            return self._measure(tenant) < limit
        if starts:
            threading.Thread(target=self._measure, args=(tenant,), daemon=True).start()
        return known[1] < limit

    def _mark(self, tenant: str, scope: str) -> None:
        if (tenant, scope) in self._marked:
            return
        if len(self._marked) > _MOST_SCOPES:
            self._marked.clear()
        folder = self._folder(tenant)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / scope).touch()
        self._marked.add((tenant, scope))

    def _measure(self, tenant: str) -> int:
        """Bytes of a tenant's segments."""
        try:
            scopes = set(_names(self._folder(tenant)))
            total = 0
            for model in _names(self._segments):
                for scope in scopes:
                    total += _size(self._segments / model / scope)
            with self._lock:
                self._bytes[tenant] = (time.monotonic(), total)
            return total
        finally:
            with self._lock:
                self._measuring.discard(tenant)

    def _folder(self, tenant: str) -> Path:
        return self._tenants / hashlib.sha256(tenant.encode()).hexdigest()[:16]


def _names(folder: Path) -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        return [path.name for path in folder.iterdir()]
    return []


def _size(folder: Path) -> int:
    total = 0
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                total += entry.stat().st_size
    return total
