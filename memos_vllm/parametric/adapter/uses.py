"""Reference counts and locks of the adapters in use: their files stay while the engine may read them.

The engine dies if an adapter's folder disappears during a step.  Each process that computes with an
adapter therefore holds a shared lock on its folder, and removal takes an exclusive one.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable

from memos_vllm.errors import NotFound
from memos_vllm.parametric.adapter.folders import AdapterFolders, FolderLock


@dataclasses.dataclass(slots=True)
class _Use:
    lock: FolderLock
    count: int = 1


class Uses:
    """Adapters in use by this process, with deferred removal. Thread-safe."""

    def __init__(self, folders: AdapterFolders, unused: Callable[[str], None]) -> None:
        """Initialize without uses.

        Args:
            unused: called with the name of a removed adapter once it has no use in this process.
        """
        self._folders = folders
        self._uses: dict[str, _Use] = {}
        self._removed: set[str] = set()
        self._lock = threading.Lock()
        self._unused = unused

    def cancel_removal(self, name: str) -> None:
        """Keep an adapter that was stored again before its removal."""
        with self._lock:
            self._removed.discard(name)

    def begin(self, name: str) -> None:
        """Count a use. Raises NotFound: the adapter was deleted after it was selected."""
        with self._lock:
            if name in self._removed:
                raise NotFound("the adapter was deleted meanwhile", param="model")
            use = self._uses.get(name)
            if use is not None:
                use.count += 1
            else:
                self._uses[name] = _Use(self._folders.hold(name))

    def is_used(self, name: str) -> bool:
        with self._lock:
            return name in self._uses

    def end(self, name: str) -> None:
        """End a use; the last one completes a deferred removal."""
        with self._lock:
            use = self._uses[name]
            use.count -= 1
            if use.count:
                return
            del self._uses[name]
            use.lock.release()
            if name not in self._removed:
                return
            self._removed.discard(name)
        self._unused(name)

    def remove(self, name: str) -> None:
        """Remove an adapter now, or at the end of its last use."""
        with self._lock:
            if name in self._uses:
                self._removed.add(name)
                return
        self._unused(name)
