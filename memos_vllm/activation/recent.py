"""Which segments somebody's requests used of late: what they will want first when they come back.

<folder>/<scope>     the last prompts' segments, newest first; names are digests, no text
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

_PROMPTS = 4
_CACHED = 4096


class RecentSegments:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: OrderedDict[str, list[list[str]]] = OrderedDict()
        self._lock = threading.Lock()

    def note(self, scope: str, names: Sequence[str]) -> None:
        """Somebody's prompt had these segments. Args: scope: `short`; names: in prompt order."""
        with self._lock:
            before = self._of(scope)
            if before and before[0] == list(names):
                return
            # A longer conversation takes the place of what it grew out of.
            others = [old for old in before if old != list(names[: len(old)])]
            self._known[scope] = [list(names), *others][:_PROMPTS]
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            unfinished = self.folder / f"{scope}.tmp"
            unfinished.write_text(json.dumps(self._known[scope]))
            unfinished.replace(self.folder / scope)

    def of(self, scope: str) -> list[list[str]]:
        """The last prompts' segments, newest first."""
        with self._lock:
            return [list(names) for names in self._of(scope)]

    def forget(self, scope: str) -> None:
        with self._lock:
            self._known.pop(scope, None)
            (self.folder / scope).unlink(missing_ok=True)

    def _of(self, scope: str) -> list[list[str]]:
        if scope not in self._known:
            self._known[scope] = []
            with contextlib.suppress(OSError, ValueError, TypeError):
                read = json.loads((self.folder / scope).read_text())
                self._known[scope] = [[str(name) for name in names] for names in read]
            if len(self._known) > _CACHED:
                self._known.popitem(last=False)
        self._known.move_to_end(scope)
        return self._known[scope]
