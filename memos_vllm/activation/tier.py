"""A bounded folder of segment files: shared memory or disk.

The folder is the truth: any process may add, read or wipe, and a lookup asks the file system.  The
sizes, times and hits in memory only decide what is evicted when the folder is full.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from memos_vllm.activation.erase import SUFFIX, leftovers, wipe

log = logging.getLogger(__name__)
_RESCAN_SECONDS = 60.0
_STALE_TMP_SECONDS = 600.0
_HIT_SECONDS = 600.0
"""A segment that was used twice as often outlives one that was used this much later."""
_LOW_WATER = 0.9
_LEFT_FREE = 64 << 20
"""Free bytes of the file system that are left to other programs, in spite of `max_bytes`."""


@dataclasses.dataclass(slots=True)
class Entry:
    """Size and uses of a segment's file."""

    bytes: int
    used: float
    hits: int = 0

    @property
    def value(self) -> float:
        """Rank for eviction, lowest first: last use, raised by the logarithm of the hits."""
        return self.used + _HIT_SECONDS * math.log2(1 + self.hits)


class Tier:
    def __init__(self, name: str, folder: Path, max_bytes: int) -> None:
        self.name = name
        self.folder = folder
        self.max_bytes = max_bytes
        self._entries: dict[str, Entry] = {}
        self._scanned = -math.inf
        self._lock = threading.Lock()

    def path(self, name: str) -> Path:
        """File of a segment; `name` is `str(SegmentName)`."""
        return self.folder / f"{name}{SUFFIX}"

    def has(self, name: str) -> bool:
        return self.path(name).exists()

    def used(self, name: str) -> None:
        """Count a use; the file's access time carries the last one across restarts."""
        moment = time.time()
        with contextlib.suppress(OSError):
            path = self.path(name)
            status = path.stat()
            os.utime(path, (moment, status.st_mtime))
            with self._lock:  # another process may have added it
                entry = self._entries.setdefault(name, Entry(status.st_size, moment))
                entry.used, entry.hits = moment, entry.hits + 1

    def added(self, name: str, size: int) -> None:
        with self._lock:
            self._entries[name] = Entry(size, time.time())

    def hits(self, name: str) -> int:
        with self._lock:
            entry = self._entries.get(name)
            return entry.hits if entry else 0

    def wipe(self, name: str) -> bool:
        with self._lock:
            self._entries.pop(name, None)
        return wipe(self.path(name))

    def make_room(self, size: int, pinned: Callable[[], set[str]] = set) -> bool:
        """Evict segments by last use and hits until `size` bytes fit; False when they cannot.

        Args:
            pinned: names of segments that are not evicted; called only before an eviction.
        """
        if size > self.max_bytes:
            return False
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._rescan(_RESCAN_SECONDS)
        if self._missing(size, self.max_bytes) <= 0:
            return True
        self._rescan(0)  # other processes may have wiped enough meanwhile
        with self._lock:
            order = sorted(self._entries, key=lambda name: self._entries[name].value)
        pinned_names = pinned()
        order = [name for name in order if name not in pinned_names]
        missing = self._missing(size, self.max_bytes)
        if missing > sum(self._bytes(name) for name in order):
            return False  # do not evict in vain
        missing = max(missing, self._missing(size, int(_LOW_WATER * self.max_bytes)))
        for name in order:
            if missing <= 0:
                break
            missing -= self._bytes(name)
            self.wipe(name)
        return self._missing(size, self.max_bytes) <= 0

    def has_room(self, size: int) -> bool:
        """Whether `size` bytes fit without an eviction. Raises OSError."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._rescan(_RESCAN_SECONDS)
        return self._missing(size, int(_LOW_WATER * self.max_bytes)) <= 0

    def names(self) -> Iterator[tuple[str, os.stat_result]]:
        """Every segment in the folder, with its file's status."""
        yield from _segments(str(self.folder), "")

    def totals(self) -> tuple[int, int]:
        """(segments, bytes)"""
        self._rescan(0)
        with self._lock:
            return len(self._entries), sum(entry.bytes for entry in self._entries.values())

    def sweep(self) -> None:
        """Remove unfinished files of killed writers."""
        for path in leftovers(self.folder):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _STALE_TMP_SECONDS:
                    path.unlink()

    def _missing(self, size: int, limit: int) -> int:
        """Bytes to evict before `size` fit; below zero: bytes that stay free."""
        with self._lock:
            over = sum(entry.bytes for entry in self._entries.values()) + size - limit
        return max(over, size + _LEFT_FREE - shutil.disk_usage(self.folder).free)

    def _bytes(self, name: str) -> int:
        with self._lock:
            entry = self._entries.get(name)
            return entry.bytes if entry else 0

    def _rescan(self, seconds: float) -> None:
        """Update the entries from the folder if the last scan is older than `seconds`."""
        if time.monotonic() - self._scanned < seconds:
            return
        found = dict(self.names())
        with self._lock:
            self._scanned = time.monotonic()
            for name in self._entries.keys() - found.keys():
                del self._entries[name]
            for name, status in found.items():
                if name not in self._entries:
                    self._entries[name] = Entry(status.st_size, status.st_atime)


def _segments(folder: str, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _segments(entry.path, f"{prefix}{entry.name}/")
            elif entry.name.endswith(SUFFIX):
                with contextlib.suppress(FileNotFoundError):
                    yield f"{prefix}{entry.name.removesuffix(SUFFIX)}", entry.stat()
