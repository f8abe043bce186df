"""Numbers of tokens of texts, counted once.

A request counts the tenant's knowledge base, the person's profile and each item that it might use; most of
them were counted for an earlier one.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sized

from cachetools import LRUCache

ENTRIES = 16_384


class TokenCounts:
    """Counts of the newest texts, by digest: no text is kept. Called from any thread."""

    def __init__(self, encode: Callable[[str], Sized], entries: int = ENTRIES) -> None:
        """
        Args:
            encode: tokens of a text; the same for the same text.
        """
        self._encode = encode
        self._counts: LRUCache[bytes, int] = LRUCache(entries)
        self._lock = threading.Lock()

    def __call__(self, text: str) -> int:
        key = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        with self._lock:
            count = self._counts.get(key)
        if count is None:
            count = len(self._encode(text))
            with self._lock:
                self._counts[key] = count
        return count
