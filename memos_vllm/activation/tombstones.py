"""What was forgotten, so that a request that was on its way brings nothing of it back.

<folder>/<cube>          the first version whose KV may be kept again; empty: the cube is gone
<folder>/scope-<scope>   how often a person's KV was forgotten
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

_KEPT_SECONDS = 86_400.0
_ALL = ""


def short(text: str) -> str:
    """A name that any file system takes, and that says nothing about whose it is."""
    return hashlib.sha256(text.encode()).hexdigest()[:24]


class Tombstones:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def bury(self, cube: str, sequence: int | None) -> None:
        """Nothing of this cube before version `sequence` is kept from now on; None: nothing at all.

        Orders may come late, or twice, from several processes: none takes an earlier one back.
        """

        def latest(before: str | None) -> str:
            if sequence is None or before == _ALL:
                return _ALL
            return str(max(sequence, int(before or 0)))

        self._change(short(cube), latest)

    def bury_scope(self, scope: str) -> None:
        """What was planned in this scope (`short`) until now is not kept."""
        self._change(f"scope-{scope}", lambda before: str(int(before or 0) + 1))

    def generation(self, scope: str) -> int:
        """How often this scope (`short`) was forgotten."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            return int((self.folder / f"scope-{scope}").read_text())
        return 0

    def any_buried(self, cubes: Iterable[str]) -> bool:
        """Whether one of these (`id@sequence`) was deleted, or its text changed since."""
        for cube in cubes:
            name, _, sequence = cube.partition("@")
            with contextlib.suppress(FileNotFoundError):
                first = (self.folder / short(name)).read_text()
                if first == _ALL or int(sequence) < int(first):
                    return True
        return False

    def sweep(self) -> None:
        """No request is on its way for a day."""
        for path in self.folder.glob("*"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _KEPT_SECONDS:
                    path.unlink()

    def _change(self, name: str, new: Callable[[str | None], str]) -> None:
        path = self.folder / name
        with _locked(self.folder):
            before = path.read_text() if path.exists() else None
            unfinished = path.with_suffix(".tmp")
            unfinished.write_text(new(before))
            unfinished.replace(path)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time, on one machine or on a file system that carries locks."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
