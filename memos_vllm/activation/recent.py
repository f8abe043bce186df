"""Segments of each person's last prompts, to prefetch them when the person comes back.

<folder>/<scope>     the last prompts' segments, newest first; names are digests, no text
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import MutableMapping, Sequence
from pathlib import Path

from cachetools import LRUCache

_PROMPTS = 4
_CACHED = 4096


class RecentSegments:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._prompts: MutableMapping[str, list[list[str]]] = LRUCache(_CACHED)
        self._lock = threading.Lock()

    def note(self, scope: str, names: Sequence[str]) -> None:
        """Note the segments of a person's prompt.

        Args:
            scope: `short`.
            names: in prompt order.
        """
        with self._lock:
            before = self._of(scope)
            if before and before[0] == list(names):
                return
            # A longer conversation replaces the prompts that it begins with.
            others = [old for old in before if old != list(names[: len(old)])]
            self._prompts[scope] = [list(names), *others][:_PROMPTS]
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            unfinished = self.folder / f"{scope}.tmp"
            unfinished.write_text(json.dumps(self._prompts[scope]))
            unfinished.replace(self.folder / scope)

    def of(self, scope: str) -> list[list[str]]:
        """The last prompts' segments, newest first."""
        with self._lock:
            return [list(names) for names in self._of(scope)]

    def forget(self, scope: str) -> None:
        with self._lock:
            self._prompts.pop(scope, None)
            (self.folder / scope).unlink(missing_ok=True)

    def _of(self, scope: str) -> list[list[str]]:
        prompts = self._prompts.get(scope)
        if prompts is None:
            prompts = []
            with contextlib.suppress(OSError, ValueError, TypeError):
                read = json.loads((self.folder / scope).read_text())
                prompts = [[str(name) for name in names] for names in read]
            self._prompts[scope] = prompts
        return prompts
