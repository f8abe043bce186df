"""A connection to LMCache's server that is made again in the background whenever it is lost.

LMCache's adapters connect while the engine starts and stop it where they fail, and they do not register
again with a server that restarted between two heartbeats.  Here, a thread connects, `get` returns at
once, with the connection or without, and a connection that failed is thrown away.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from memos_vllm.engine.lmcache.client import LMCacheError

log = logging.getLogger("vllm.memos_kv")


class Client(Protocol):
    @property
    def is_healthy(self) -> bool: ...
    def shutdown(self) -> None: ...


C = TypeVar("C", bound=Client)


class Link(Generic[C]):
    def __init__(self, connect: Callable[[], C], retry_seconds: float) -> None:
        """
        Args:
            connect: may take long, and raise LMCacheError.
            retry_seconds: between two looks at the connection.
        """
        self._connect = connect
        self._retry_seconds = retry_seconds
        self._client: C | None = None
        self._wake = threading.Event()
        self._closed = False
        self._logged: str | None = None
        self._thread = threading.Thread(target=self._run, name="memos-lmcache-link", daemon=True)
        self._thread.start()

    def get(self) -> C | None:
        """The connection; None: there is none at present."""
        client = self._client
        return client if client is not None and client.is_healthy else None

    def lost(self, client: C) -> None:
        """Replace a connection that failed."""
        if self._client is client:
            self._drop()
            self._wake.set()

    def close(self) -> None:
        self._closed = True
        self._wake.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._closed:
            if self.get() is None:
                self._drop()
                self._try_connect()
            self._wake.wait(self._retry_seconds)
            self._wake.clear()
        self._drop()

    def _try_connect(self) -> None:
        try:
            self._client = self._connect()
        except LMCacheError as error:
            if self._logged != str(error):
                self._logged = str(error)
                log.warning("LMCache is not used for now: %s", error, exc_info=_unexpected(error))
            return
        if self._logged is not None:
            log.warning("LMCache is used again")
        self._logged = None

    def _drop(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            threading.Thread(target=_shut_down, args=(client,), daemon=True).start()


def _shut_down(client: Client) -> None:
    """Runs in its own thread: it may wait for a server that is gone."""
    try:
        client.shutdown()
    except LMCacheError as error:
        log.warning("a lost connection to LMCache is not closed: %s", error, exc_info=error)


def _unexpected(error: LMCacheError) -> bool:
    """Whether the log needs a traceback."""
    return not isinstance(error.__cause__, OSError | ValueError)
