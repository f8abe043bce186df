"""Classify a client's system message as the tenant's or a person's.

An application's system prompt is the same for every person of a tenant, and KV behind it is worth
sharing.  One that names a single person ("You help Alice, who …") is not: a person who guesses it
could confirm the guess by timing.  The two look alike, so a message counts as the tenant's once an admin
declares it.  By configuration, also once several people of the tenant have sent it: then a person who
guesses it can time that others have.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import MutableMapping
from pathlib import Path

from cachetools import LRUCache

from memos_vllm.activation.tombstones import short

_CACHED = 4096
_DECLARED = "declared"


class SharedPrompts:
    def __init__(self, folder: Path, least_senders: int) -> None:
        """
        Args:
            folder: digests of messages and their senders, for other processes and the next start.
            least_senders: people that make a message shared; 0: only declared ones are, 1: all.
        """
        self._folder = folder
        self._least_senders = least_senders
        self._shared: MutableMapping[str, bool] = LRUCache(_CACHED)
        self._lock = threading.Lock()

    def declare(self, tenant: str, text: str) -> None:
        """Share this system message from now on; the caller speaks for the tenant."""
        (self._senders(self._message(tenant, text)) / _DECLARED).touch()

    def is_shared(self, tenant: str, person: str, text: str) -> bool:
        """Also counts this person among the message's senders."""
        if self._least_senders == 1:
            return True
        message = self._message(tenant, text)
        with self._lock:
            if self._shared.get(message):  # a use, which keeps it from eviction
                return True
        if not self._least_senders:  # nothing of what people send is kept
            if not (self._path(message) / _DECLARED).exists():
                return False
            with self._lock:
                self._shared[message] = True
            return True
        folder = self._senders(message)
        if person:  # a request without a person is not evidence of another sender
            (folder / short(f"{message}\0{person}")).touch()
        senders = {path.name for path in folder.iterdir()}
        if _DECLARED not in senders and len(senders) < self._least_senders:
            return False
        with self._lock:
            self._shared[message] = True
        return True

    def _senders(self, message: str) -> Path:
        folder = self._path(message)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder

    def _path(self, message: str) -> Path:
        return self._folder / message[:2] / message[2:40]

    @staticmethod
    def _message(tenant: str, text: str) -> str:
        return hashlib.sha256(f"{tenant}\0{text}".encode("utf-8", "surrogatepass")).hexdigest()
