"""The process that trains, seen from whoever started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil

from memos_vllm.parametric.training.order import JobFolder, Report

_END_SECONDS = 60.0
_MODULE = "memos_vllm.parametric.training.process"


class Child:
    """Ends when it is told to, when it has taken too much memory, or with the process that holds it."""

    def __init__(self, folder: JobFolder, max_bytes: int, beside_engine: bool = False) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        folder.forget_end()
        self._why: str | None = None
        environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
        environment["TOKENIZERS_PARALLELISM"] = "false"
        if beside_engine:  # threads that wait must not keep its threads from their cores
            environment |= {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
        with folder.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", _MODULE, str(folder.path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    def runs(self) -> bool:
        """Ends it, too, where it has taken more memory than it may."""
        if self._process.poll() is not None:
            return False
        taken = _memory(self._process.pid)
        if taken > self._max_bytes and self._why is None:
            self.stop(f"it took {taken} bytes of memory, and may take {self._max_bytes}")
            return False
        return True

    def stop(self, why: str) -> None:
        """After the step that it is in; waits for it."""
        self._why = why
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def report(self) -> Report:
        """How it ended; for one that could not say so itself, with the end of its log."""
        report = self._folder.report()
        if report is not None and self._why is None:
            return report
        if self._why is not None:
            return Report(outcome="stopped", reasons=[self._why])
        code = self._process.returncode
        end = self._folder.log.read_text(encoding="utf-8", errors="replace")[-500:].strip()
        return Report(outcome="failed", reasons=[f"the process ended with {code}: {end}"])


def _memory(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
