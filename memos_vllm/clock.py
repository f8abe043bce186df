"""The time that memory is stored with: UTC, and deaf to jumps of the machine's clock.

A clock that is set to another year by mistake, and set right again, would let everything expire, and order what
people say falsely for ever.  So time runs on by the hardware's count since the start (which also counts a
suspended machine), follows the small corrections of NTP at once, and follows a jump only when it has lasted.
It never runs backwards.  Each process has its own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)
JUMP_NS = 1_000_000_000
"""Larger steps of the wall clock are jumps."""
_SLEW = 1e-3
"""Drift that is no jump, over the time since the last look: twice what NTP corrects by."""
LASTING_NS = 300 * 1_000_000_000


def _count_ns() -> int:
    """Of a clock that is never set, with the time in which the machine was suspended."""
    return time.clock_gettime_ns(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Clock:
    """Thread-safe."""

    def __init__(
        self,
        wall_ns: Callable[[], int] = time.time_ns,
        count_ns: Callable[[], int] = _count_ns,
    ) -> None:
        """
        Args:
            wall_ns: the machine's clock, since the epoch.
            count_ns: a clock that is never set, from any beginning.
        """
        self._wall_ns, self._count_ns = wall_ns, count_ns
        self._lock = threading.Lock()
        self._looked = count_ns()
        self._offset = wall_ns() - self._looked
        self._jump: tuple[int, int] | None = None
        """(count when it was noticed, offset since then) of a jump that is not followed yet."""
        self._last = 0

    def now_ns(self) -> int:
        """Nanoseconds since the epoch; never less than before."""
        with self._lock:
            count = self._count_ns()
            self._follow(count, self._wall_ns() - count)
            self._looked = count
            self._last = max(self._last, count + self._offset)
            return self._last

    def _follow(self, count: int, offset: int) -> None:
        if abs(offset - self._offset) <= JUMP_NS + _SLEW * (count - self._looked):
            if self._jump is not None:
                log.warning("the machine's clock is back")
            self._offset, self._jump = offset, None
        elif self._jump is None or abs(offset - self._jump[1]) > JUMP_NS:
            seconds = (offset - self._offset) / 1e9
            log.warning(
                "the machine's clock jumped by %+.0f s: memory follows when that has lasted for %.0f s",
                seconds,
                LASTING_NS / 1e9,
            )
            self._jump = (count, offset)
        elif count - self._jump[0] >= LASTING_NS:
            log.warning("the jump of the machine's clock has lasted: memory follows it")
            self._offset, self._jump = offset, None


_CLOCK = Clock()


def now_us() -> int:
    """Microseconds since the epoch, UTC: the stored form of times."""
    return _CLOCK.now_ns() // 1000
