"""Time limit of a request's memory, and the share of it at which each step ends.

A step that is late leaves time for those that do without it: search goes on by words where the
embedder is late, and the prompt gets its stable cubes where search is late.
"""

from __future__ import annotations

import asyncio
import dataclasses

_SHARES = {"recent": 0.25, "rewrite": 0.5, "embed": 0.7, "search": 0.85}
"""End of a step, as a share of the limit; the others may take all of it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Clock:
    begin: float
    """Seconds of the running loop."""
    limit: float
    """Seconds."""

    @classmethod
    def started(cls, limit_seconds: float) -> Clock:
        """A clock that begins now."""
        return cls(asyncio.get_running_loop().time(), limit_seconds)

    def end_of(self, step: str) -> float:
        """Seconds of the running loop at which a step has to end."""
        return self.begin + self.limit * _SHARES.get(step, 1.0)
