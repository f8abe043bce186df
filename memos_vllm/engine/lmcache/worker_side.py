"""LMCache in a worker: load chunks into the paged cache, save them out of it.

LMCache's adapter copies inside its calls and may wait for the server in them, so each direction has a
thread.  A load that fails is computed instead; a save that fails is a miss later.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from memos_vllm.engine.kv.base import Reports
from memos_vllm.engine.kv.threads import beside_engine
from memos_vllm.engine.lmcache.client import LMCacheError, TransferClient
from memos_vllm.engine.lmcache.link import Link
from memos_vllm.engine.lmcache.messages import StepTransfers, Transfer

log = logging.getLogger("vllm.memos_kv")


class WorkerSide(Reports):
    def __init__(self, link: Link[TransferClient]) -> None:
        super().__init__()
        self._link = link
        self._failed_saves: set[str] = set()
        self._loader = ThreadPoolExecutor(1, "memos-lmcache-load", beside_engine)
        self._saver = ThreadPoolExecutor(1, "memos-lmcache-save", beside_engine)

    def begin(self, orders: StepTransfers) -> None:
        if not orders.loads and not orders.saves:
            return
        connection = self._connect()
        for save in orders.saves:
            self._saver.submit(self._save, save, connection)
        for load in orders.loads:
            self._loader.submit(self._load, load, connection)

    def take_failed_saves(self) -> set[str]:
        """Requests with failed saves; no later than `take_finished` names them."""
        with self._lock:
            failed, self._failed_saves = self._failed_saves, set()
        return failed

    def close(self) -> None:
        self._loader.shutdown(wait=False, cancel_futures=True)
        self._saver.shutdown(wait=False, cancel_futures=True)

    def _load(self, load: Transfer, connection: _Connection | None) -> None:
        done = connection is not None and self._transfer(connection.client.load, load, connection)
        with self._lock:
            if done:
                self._counts["lmcache_loaded_tokens"] += load.end - load.start - load.skip
            else:
                self._counts["lmcache_load_failures"] += 1
                self._bad_blocks.update(load.written)
            self._loaded.add(load.request_id)

    def _save(self, save: Transfer, connection: _Connection | None) -> None:
        done = connection is not None and self._transfer(connection.client.save, save, connection)
        with self._lock:
            if done:
                self._counts["lmcache_saved_tokens"] += save.end - save.start
            else:
                self._counts["lmcache_save_failures"] += 1
                self._failed_saves.add(save.request_id)
            self._saved.add(save.request_id)

    def _transfer(
        self,
        copy: Callable[[Transfer, Any], bool],
        transfer: Transfer,
        connection: _Connection,
    ) -> bool:
        """Copy, and wait for the end; False: it failed, and the connection is made again."""
        try:
            if copy(transfer, connection.event):
                return True
            log.warning("LMCache did not copy the KV of request %s", transfer.request_id)
        except LMCacheError as error:
            log.warning("%s", error, exc_info=error)
        # The top of a thread: a bug must not leave the request waiting, or its blocks allocated.
        except Exception:
            log.exception("LMCache did not copy the KV of request %s", transfer.request_id)
        self._link.lost(connection.client)  # a server that restarted does not know this worker
        return False

    def _connect(self) -> _Connection | None:
        """The connection for a step's transfers; None: there is none at present."""
        client = self._link.get()
        if client is None:
            return None
        try:
            return _Connection(client, client.record_event())
        except LMCacheError as error:
            log.warning("%s", error, exc_info=error)
            self._link.lost(client)
            return None


@dataclasses.dataclass(frozen=True, slots=True)
class _Connection:
    client: TransferClient
    event: Any
    """Behind the device's work of the step; None on a CPU."""
