"""Tombstones of deleted KV, so that a request in flight does not save it again.

<folder>/<cube>          the first version whose KV may be saved; empty: the cube is deleted
<folder>/scope-<scope>   how often a scope's KV was forgotten; "closed": its person was erased
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from memos_vllm.cube.ids import CubeVersion

_TOMBSTONE_SECONDS = 86_400.0
_ALL = ""
_CLOSED = "closed"


def short(text: str) -> str:
    """Digest of a name: valid on any file system, and it hides the name."""
    return hashlib.sha256(text.encode()).hexdigest()[:24]


class Tombstones:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def bury(self, cube: str, sequence: int | None) -> None:
        """Refuse KV of this cube from versions before `sequence`; None: from every version.

        Several processes call this, late or twice: no call takes back an earlier one.
        """

        def latest(before: str | None) -> str:
            if sequence is None or before == _ALL:
                return _ALL
            return str(max(sequence, int(before or 0)))

        self._change(short(cube), latest)

    def bury_scope(self, scope: str) -> None:
        """Refuse KV that was planned in this scope (`short`) before this call."""
        self._change(
            f"scope-{scope}",
            lambda before: before if before == _CLOSED else str(int(before or 0) + 1),
        )

    def close_scope(self, scope: str) -> None:
        """Refuse KV in this scope (`short`) for good: no later prompt has it."""
        self._change(f"scope-{scope}", lambda _: _CLOSED)

    def generation(self, scope: str) -> int:
        """How often this scope (`short`) was forgotten; of a closed one, a number that no plan has."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            text = (self.folder / f"scope-{scope}").read_text()
            return -1 - secrets.randbelow(1 << 30) if text == _CLOSED else int(text)
        return 0

    def any_buried(self, cubes: Iterable[str]) -> bool:
        """Whether one of these versions (`id@sequence`) was deleted or replaced."""
        for version in map(CubeVersion.parse, cubes):
            with contextlib.suppress(FileNotFoundError):
                first = (self.folder / short(version.cube)).read_text()
                if first == _ALL or version.sequence < int(first):
                    return True
        return False

    def sweep(self) -> None:
        """Remove tombstones that are a day old: no request runs that long."""
        for path in self.folder.glob("*"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _TOMBSTONE_SECONDS:
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
    """Lock the folder, also between machines where the file system carries locks."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
