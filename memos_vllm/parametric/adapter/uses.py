"""Which adapters the engine computes with: their files stay as long as it may read them.

An engine that finds an adapter's folder gone in the middle of a step ends.  So whoever computes with
an adapter holds a shared lock on its folder, in whichever process, and it is removed under an
exclusive one.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable

from memos_vllm.errors import NotFound
from memos_vllm.parametric.adapter.folders import AdapterFolders, Held


@dataclasses.dataclass(slots=True)
class _Use:
    held: Held
    count: int = 1


class Uses:
    def __init__(self, folders: AdapterFolders, unused: Callable[[str], None]) -> None:
        """Args: unused: told of an adapter that is to go and that nothing here computes with."""
        self._folders = folders
        self._uses: dict[str, _Use] = {}
        self._going: set[str] = set()
        self._lock = threading.Lock()
        self._unused = unused

    def wanted(self, name: str) -> None:
        """Somebody has stored it (again)."""
        with self._lock:
            self._going.discard(name)

    def begin(self, name: str) -> None:
        """Raises NotFound: it was deleted after it was chosen."""
        with self._lock:
            if name in self._going:
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
        with self._lock:
            use = self._uses[name]
            use.count -= 1
            if use.count:
                return
            del self._uses[name]
            use.held.release()
            if name not in self._going:
                return
            self._going.discard(name)
        self._unused(name)

    def remove(self, name: str) -> None:
        """Now, or when the last request with it ends."""
        with self._lock:
            if name in self._uses:
                self._going.add(name)
                return
        self._unused(name)
