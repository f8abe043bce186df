"""Worker thread of a server: runs transforms one after the other."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from memos_vllm.config.tree import Config
from memos_vllm.cube.ids import now_us
from memos_vllm.errors import ConfigError, MemosError
from memos_vllm.transforms.auto import promote
from memos_vllm.transforms.runner import JobRunner
from memos_vllm.vault.quotas import seconds_of_today
from memos_vllm.vault.transform_records import Transform

if TYPE_CHECKING:
    from memos_vllm.system import MemorySystem

log = logging.getLogger(__name__)
_STOP_SECONDS = 90.0
_PROMOTE_SECONDS = 600.0
_DAY_US = 86_400_000_000


class TransformWorker:
    def __init__(self, runner: JobRunner) -> None:
        self._runner = runner
        self._stop = threading.Event()
        self._promote_at = 0.0
        self._thread = threading.Thread(target=self._run, name="memos-transforms", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Interrupt the running job; the next worker continues it from its last checkpoint."""
        self._stop.set()
        self._runner.end()
        if self._thread.is_alive():
            self._thread.join(_STOP_SECONDS)

    def _promote(self) -> None:
        system = self._runner.system
        if system.config.training.promote and time.monotonic() > self._promote_at:
            self._promote_at = time.monotonic() + _PROMOTE_SECONDS
            promote(system)

    def _postponed(self, job: Transform) -> bool:
        """Queue a job for later whose tenant is over a limit."""
        system, tenant = self._runner.system, job.principal.tenant
        wait = system.pressure.left(tenant)
        if system.quotas.training_left(system.database, tenant) == 0:
            wait = max(wait, seconds_of_today())
        if wait:
            log.info("job %s waits for %.0f s: its tenant is over a limit", job.id, wait)
            system.transforms.release(job.id, wait)
        return bool(wait)

    def _count(self, tenant: str, seconds: float) -> None:
        system = self._runner.system
        if system.limits_of(tenant).training_minutes_per_day is not None:
            system.quotas.trained(system.database, tenant, seconds)

    def _run(self) -> None:
        while not self._stop.wait(self._runner.system.config.jobs.poll_seconds):
            try:
                self._promote()
                job = self._runner.claim()
                if job is not None and not self._postponed(job):
                    started = time.monotonic()
                    try:
                        self._runner.do(job)
                    finally:
                        seconds = time.monotonic() - started
                        self._count(job.principal.tenant, seconds)
                    sweep(self._runner.system)
            except (MemosError, OSError) as error:
                log.warning("job worker failed, retrying: %s", error)


def base_model(config: Config, given: str | None = None) -> tuple[str, str | None]:
    """Base model and revision for training without an engine in this process. Raises ConfigError."""
    model = given or config.training.model or config.serve.model
    if model is None:
        raise ConfigError("no base model is named: give --model, or set `training.model`")
    return model, None


def sweep(system: MemorySystem) -> None:
    """Delete the folders of jobs that have ended or were deleted, and old records."""
    kept_us = round(system.config.training.jobs_kept_days * _DAY_US)
    system.transforms.forget_ended(now_us() - kept_us)
    root: Path = system.config.training_path
    used = system.transforms.ids()
    for path in root.iterdir() if root.is_dir() else ():
        if path.name not in used:
            shutil.rmtree(path, ignore_errors=True)
