"""Workers of the durable queue: threads that claim jobs from the vault and run their handlers.

A job that this process submits wakes a worker at once; jobs of other processes, retries and jobs of
dead processes are found by polling.  A handler may run twice and must then change nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping

from memos_vllm.config.tree import JobsConfig
from memos_vllm.errors import MemosError, VaultUnavailable
from memos_vllm.vault.jobs import LANES, Job, JobStore, Lane, Leases, new_holder

log = logging.getLogger(__name__)


class Postponed(Exception):
    """A handler puts its job off; the attempt does not count."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"{seconds:.0f} s")
        self.seconds = seconds


Handler = Callable[[str], None]
"""Is given the job's subject."""


class JobQueue:
    """Runs jobs of the lanes for which it has handlers."""

    def __init__(self, store: JobStore, config: JobsConfig) -> None:
        self._store, self._config = store, config
        self._handlers: dict[str, Handler] = {}
        self._leases = Leases(store)
        self._threads: list[threading.Thread] = []
        self._changed = threading.Condition()
        self._submitted: Counter[Lane] = Counter()  # guarded by _changed
        self._stopping = False

    def start(self, handlers: Mapping[str, Handler]) -> None:
        """Start `jobs.workers` threads for the lane `fast` and one for each other lane.

        Args:
            handlers: by job name.
        """
        self._handlers = dict(handlers)
        workers = {Lane.FAST: self._config.workers}
        for lane in {LANES[name] for name in handlers}:
            for number in range(workers.get(lane, 1)):
                name = f"memos-jobs-{lane}-{number}"
                thread = threading.Thread(target=self._work, args=(lane,), name=name, daemon=True)
                self._threads.append(thread)
                thread.start()

    def submit(self, name: str, subject: str) -> None:
        """Queue a job, once per name and subject. Raises VaultUnavailable."""
        self._store.add(name, subject)
        self.wake(name)

    def wake(self, name: str) -> None:
        """Have a worker look for a job that was added in another transaction."""
        with self._changed:
            self._submitted[LANES[name]] += 1
            self._changed.notify_all()

    def stop(self, wait_seconds: float = 5.0) -> None:
        """Let running jobs end, for at most `wait_seconds` together; queued ones stay queued."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        deadline = time.monotonic() + wait_seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._leases.stop()

    # -- inside -----------------------------------------------------------------------------------

    def _work(self, lane: Lane) -> None:
        holder = new_holder()
        while not self._stopping:
            submitted = self._submitted[lane]
            job = self._claim(lane, holder)
            if job is not None:
                self._run(job)
                continue
            self._wait(lane, submitted)

    def _wait(self, lane: Lane, submitted: int) -> None:
        """Wait for `poll_seconds`, for `stop`, or for a submission after the first `submitted` ones."""

        def woken() -> bool:
            return self._stopping or self._submitted[lane] != submitted

        with self._changed:
            self._changed.wait_for(woken, timeout=self._config.poll_seconds)

    def _claim(self, lane: Lane, holder: str) -> Job | None:
        try:
            return self._store.claim(lane, holder)
        except VaultUnavailable as error:
            log.warning("jobs cannot be claimed, retrying: %s", error)
            return None

    def _run(self, job: Job) -> None:
        try:
            try:
                with self._leases.held(job):
                    error = self._error_of(job)
            except Postponed as later:
                self._store.postpone(job, later.seconds)
                return
            if error is None:
                self._store.done(job)
            else:
                self._store.retry(job, error)
        except VaultUnavailable as problem:
            log.warning("job %s %s runs again after its lease: %s", job.name, job.subject, problem)

    def _error_of(self, job: Job) -> str | None:
        """Run a job; class name of its error, or None."""
        try:
            self._handlers[job.name](job.subject)
        except (MemosError, OSError) as error:
            log.warning(
                "job %s %s failed in attempt %d: %s", job.name, job.subject, job.attempts, error
            )
            return type(error).__name__
        except Postponed:
            raise
        except Exception as error:
            # The top of a thread: an unknown error of one job must not end the worker of all others.
            log.exception("job %s %s failed in attempt %d", job.name, job.subject, job.attempts)
            return type(error).__name__
        return None
