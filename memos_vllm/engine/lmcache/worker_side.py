"""LMCache in a worker: chunks into the paged cache, and out of it.

LMCache's adapter copies inside its calls and may wait for the server in them, so each direction has a
thread.  Whatever goes wrong there is a load that is computed instead, or a save that is a miss later.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from memos_vllm.engine.kv.base import Reports
from memos_vllm.engine.lmcache.endpoint import operation
from memos_vllm.engine.lmcache.link import Link
from memos_vllm.engine.lmcache.messages import StepTransfers, Transfer

log = logging.getLogger("vllm.memos_kv")


class WorkerSide(Reports):
    def __init__(self, link: Link[Any]) -> None:
        super().__init__()
        self._link = link
        self._failed_saves: set[str] = set()
        self._loader = ThreadPoolExecutor(1, "memos-lmcache-load")
        self._saver = ThreadPoolExecutor(1, "memos-lmcache-save")

    def begin(self, orders: StepTransfers) -> None:
        if not orders.loads and not orders.saves:
            return
        adapter = self._link.get()
        event = self._event(adapter)
        for save in orders.saves:
            self._saver.submit(self._save, save, adapter, event)
        for load in orders.loads:
            self._loader.submit(self._load, load, adapter, event)

    def take_failed_saves(self) -> set[str]:
        """Before `take_finished` names them, or together with it."""
        with self._lock:
            failed, self._failed_saves = self._failed_saves, set()
        return failed

    def close(self) -> None:
        self._loader.shutdown(wait=False, cancel_futures=True)
        self._saver.shutdown(wait=False, cancel_futures=True)

    def _load(self, load: Transfer, adapter: Any, event: Any) -> None:
        done = self._transfer("load", load, adapter, event)
        with self._lock:
            if done:
                self._counts["lmcache_loaded_tokens"] += load.end - load.start - load.skip
            else:
                self._counts["lmcache_load_failures"] += 1
                self._bad_blocks.update(load.written)
            self._loaded.add(load.request_id)

    def _save(self, save: Transfer, adapter: Any, event: Any) -> None:
        done = self._transfer("save", save, adapter, event)
        with self._lock:
            if done:
                self._counts["lmcache_saved_tokens"] += save.end - save.start
            else:
                self._counts["lmcache_save_failures"] += 1
                self._failed_saves.add(save.request_id)
            self._saved.add(save.request_id)

    def _transfer(self, direction: str, transfer: Transfer, adapter: Any, event: Any) -> bool:
        if adapter is None:
            return False
        request_id = transfer.request_id
        try:
            if direction == "load":
                adapter.submit_retrieve_request(
                    request_id, operation(transfer), event, cache_salt=transfer.salt
                )
                future, _ = adapter.retrieve_futures.pop(request_id, (None, None))
            else:
                adapter.submit_store_request(
                    request_id, operation(transfer), event, cache_salt=transfer.salt
                )
                future = adapter.store_futures.pop(request_id, None)
            # Not to be given up before it is over: the blocks would be others' by then. Each of
            # its steps ends by LMCache's own time-out.
            if future is not None and future.result():
                return True
            log.warning("LMCache did not %s a request's KV", direction)
        except Exception:
            log.warning("LMCache did not %s a request's KV", direction, exc_info=True)
        self._link.lost(adapter)  # a server that came back does not know this worker
        return False

    def _event(self, adapter: Any) -> Any:
        """Orders a transfer behind what the device computes; None on a CPU."""
        try:
            return None if adapter is None else adapter.create_recorded_event()
        except Exception:
            log.warning("LMCache takes no transfer", exc_info=True)
            self._link.lost(adapter)
            return None
