"""Tenants that were over a limit a moment ago: their own background work waits."""

from __future__ import annotations

import time

_SECONDS = 60.0


class Pressure:
    """Per process; each step is atomic."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def refused(self, tenant: str) -> None:
        """A request of the tenant was over a limit."""
        self._until[tenant] = time.monotonic() + _SECONDS

    def left(self, tenant: str) -> float:
        """Seconds until the tenant's background work goes on; 0: now."""
        until = self._until.get(tenant)
        if until is None:
            return 0.0
        left = until - time.monotonic()
        if left <= 0:
            self._until.pop(tenant, None)
        return max(0.0, left)
