"""The training process, as a child of the job worker."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys

import psutil

from memos_vllm.parametric.training.order import JobFolder, Report

log = logging.getLogger(__name__)

_END_SECONDS = 60.0
_MOST_RESTARTS = 2
MODULE = "memos_vllm.parametric.training.process"


class Child:
    """The child process. It ends on `stop`, above its memory limit, or with its parent."""

    def __init__(
        self,
        folder: JobFolder,
        max_bytes: int,
        beside_engine: bool = False,
        module: str = MODULE,
    ) -> None:
        self._module = module
        self._folder, self._max_bytes = folder, max_bytes
        folder.clear_report()
        self._stop_reason: str | None = None
        self._restarts = 0
        environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
        environment["TOKENIZERS_PARALLELISM"] = "false"
        if beside_engine:  # spinning threads would take the engine's cores
            environment |= {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
        self._environment = environment
        self._process = self._started()

    def _started(self) -> subprocess.Popen[bytes]:
        with self._folder.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", self._module, str(self._folder.path), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def runs(self) -> bool:
        """Whether the process runs; stops it first if it exceeds its memory limit.

        A process that a signal ended, which is not ours, is started again, twice at most: it goes on
        from its checkpoint.
        """
        if (code := self._process.poll()) is not None:
            if code >= 0 or self._stop_reason is not None or self._restarts == _MOST_RESTARTS:
                return False
            self._restarts += 1
            log.warning("a training process was ended by signal %d; it is started again", -code)
            self._process = self._started()
        used = _memory(self._process.pid)
        if used > self._max_bytes and self._stop_reason is None:
            self.stop(
                f"it used {used} bytes of memory; the limit is {self._max_bytes} (training.max_bytes)"
            )
            return False
        return True

    def stop(self, reason: str) -> None:
        """Stop after the current step, and wait; kills the process after a minute."""
        self._stop_reason = reason
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def report(self) -> Report:
        """The report of an ended process; without one, its exit code and the tail of its log."""
        report = self._folder.report()
        if report is not None and self._stop_reason is None:
            return report
        if self._stop_reason is not None:
            return Report(outcome="stopped", reasons=[self._stop_reason])
        code = self._process.returncode
        tail = self._folder.log.read_text(encoding="utf-8", errors="replace")[-500:].strip()
        return Report(outcome="failed", reasons=[f"the process ended with {code}: {tail}"])


def _memory(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
