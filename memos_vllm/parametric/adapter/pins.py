"""Pinned adapters: cubes whose adapter stays in host memory beyond LRU eviction.

A pin is an empty file named by the digest of the cube's id, so that every server process on the
folder sees it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path


class AdapterPins:
    def __init__(self, folder: Path, older: Path) -> None:
        """Open the pins in a folder, which need not exist.

        Args:
            older: folder of the pins of version 0.1, which kept them beside those of KV segments.
        """
        self._folder = folder
        self._older = older

    def add(self, cube: str) -> None:
        """Pin a cube's adapter. Raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (self._folder / _name(cube)).touch()

    def remove(self, cube: str) -> None:
        """Unpin a cube's adapter; one that is not pinned stays so. Raises OSError."""
        for folder in (self._folder, self._older):
            (folder / _name(cube)).unlink(missing_ok=True)

    def __contains__(self, cube: str) -> bool:
        return any((folder / _name(cube)).exists() for folder in (self._folder, self._older))


def _name(cube: str) -> str:
    return hashlib.sha256(cube.encode()).hexdigest()[:24]
