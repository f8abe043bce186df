"""A connection to LMCache's server that may be lost at any time, and is made again by itself.

LMCache's own adapters connect while the engine starts and fail with it, and forget to introduce
themselves to a server that came back between two of their heartbeats.  Here, connecting is a thread's
work, whoever needs the connection gets it or none at once, and one that failed is thrown away.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

log = logging.getLogger("vllm.memos_kv")


class Adapter(Protocol):
    @property
    def is_healthy(self) -> bool: ...
    def shutdown(self) -> None: ...


A = TypeVar("A", bound=Adapter)


class Link(Generic[A]):
    def __init__(self, connect: Callable[[], A], retry_seconds: float) -> None:
        """Args: connect: may take its time, and raise whatever it likes."""
        self._connect = connect
        self._retry_seconds = retry_seconds
        self._adapter: A | None = None
        self._wake = threading.Event()
        self._closed = False
        self._told: str | None = None
        self._thread = threading.Thread(target=self._keep, name="memos-lmcache-link", daemon=True)
        self._thread.start()

    def get(self) -> A | None:
        """The connection, if there is one now."""
        adapter = self._adapter
        return adapter if adapter is not None and adapter.is_healthy else None

    def lost(self, adapter: A) -> None:
        """This one failed: make another."""
        if self._adapter is adapter:
            self._drop()
            self._wake.set()

    def close(self) -> None:
        self._closed = True
        self._wake.set()
        self._thread.join(timeout=10)

    def _keep(self) -> None:
        while not self._closed:
            if self.get() is None:
                self._drop()
                self._try()
            self._wake.wait(self._retry_seconds)
            self._wake.clear()
        self._drop()

    def _try(self) -> None:
        try:
            self._adapter = self._connect()
        except Exception as error:
            if self._told != str(error):
                self._told = str(error)
                log.warning("LMCache is not used for now: %s", error, exc_info=_unexpected(error))
            return
        if self._told is not None:
            log.warning("LMCache is used again")
        self._told = None

    def _drop(self) -> None:
        adapter, self._adapter = self._adapter, None
        if adapter is not None:
            threading.Thread(target=_shut, args=(adapter,), daemon=True).start()


def _shut(adapter: Adapter) -> None:
    """It may wait for a server that is gone."""
    try:
        adapter.shutdown()
    except Exception:
        log.exception("a lost connection to LMCache is left as it is")


def _unexpected(error: Exception) -> bool:
    return not isinstance(error, OSError | ValueError)
