"""Whether what a client puts in front of memory (its system message) is the tenant's or a person's.

An application's system prompt is the same for everyone, and KV behind it is worth sharing.  One that
names a single person ("You help Alice, who …") is not: whoever could guess it could time it.  The
two look alike, so a message counts as the tenant's once several people of the tenant have sent it.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from pathlib import Path

from memos_vllm.activation.tombstones import short

_CACHED = 4096
_DECLARED = "declared"


class SharedPrompts:
    def __init__(self, folder: Path, people: int) -> None:
        """
        Args:
            folder: remembers who sent what, as digests, for other processes and the next start.
            people: how many have to have sent a message; 0: it is never shared, 1: always.
        """
        self._folder = folder
        self._people = people
        self._shared: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()

    def declare(self, tenant: str, text: str) -> None:
        """Whoever may speak for the tenant says that this system message is its own."""
        (self._senders(self._message(tenant, text)) / _DECLARED).touch()

    def is_shared(self, tenant: str, person: str, text: str) -> bool:
        """Also counts this person among the message's senders."""
        if self._people <= 1:
            return self._people == 1
        message = self._message(tenant, text)
        with self._lock:
            if message in self._shared:
                return True
        folder = self._senders(message)
        if person:  # without one it is nobody's in particular, so it may be anybody's
            (folder / short(f"{message}\0{person}")).touch()
        senders = {path.name for path in folder.iterdir()}
        if _DECLARED not in senders and len(senders) < self._people:
            return False
        with self._lock:
            self._shared[message] = None
            if len(self._shared) > _CACHED:
                self._shared.popitem(last=False)
        return True

    def _senders(self, message: str) -> Path:
        folder = self._folder / message[:2] / message[2:40]
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder

    @staticmethod
    def _message(tenant: str, text: str) -> str:
        return hashlib.sha256(f"{tenant}\0{text}".encode("utf-8", "surrogatepass")).hexdigest()
