"""A server's thread that does jobs one after the other, while it serves."""

from __future__ import annotations

import logging
import threading
import time

from memos_vllm.errors import MemosError
from memos_vllm.transforms.promote import promote
from memos_vllm.transforms.run import Workshop
from memos_vllm.transforms.upkeep import sweep

log = logging.getLogger(__name__)
_POLL_SECONDS = 1.0
_STOP_SECONDS = 90.0
_PROMOTE_SECONDS = 600.0


class TransformWorker:
    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop
        self._stop = threading.Event()
        self._promote_at = 0.0
        self._thread = threading.Thread(target=self._run, name="memos-transforms", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """A job that runs is left to whoever comes next, with what it has done."""
        self._stop.set()
        self._workshop.end()
        if self._thread.is_alive():
            self._thread.join(_STOP_SECONDS)

    def _promote(self) -> None:
        system = self._workshop.system
        if system.config.training.promote and time.monotonic() > self._promote_at:
            self._promote_at = time.monotonic() + _PROMOTE_SECONDS
            promote(system)

    def _run(self) -> None:
        while not self._stop.wait(_POLL_SECONDS):
            try:
                self._promote()
                job = self._workshop.claim()
                if job is not None:
                    self._workshop.do(job)
                    sweep(self._workshop.system)
            except (MemosError, OSError) as error:
                log.warning("jobs wait: %s", error)
