"""A process that has imported vLLM and forks servers: most of a start is imports, in three processes.

Servers that run through it fork their engine core and worker, too.  Those that tests kill, restart or
start through `memos serve` start as users start them (`Server(forked=False)`).
"""

from __future__ import annotations

import functools
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from memos_vllm.lifeline import has_ended

PRELOADED = (
    "vllm.entrypoints.openai.api_server",
    "vllm.entrypoints.launchers.api_server.entry",
    "vllm.v1.engine.core",
    "vllm.v1.engine.async_llm",
    "vllm.v1.worker.cpu_worker",
    "vllm.v1.executor.multiproc_executor",
)


class Forked:
    """A server's process; what tests use of `subprocess.Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._process = psutil.Process(pid)

    def poll(self) -> int | None:
        """0 when it has ended."""
        return 0 if has_ended(self._process) else None

    def wait(self, timeout: float) -> int:
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("server", timeout)
            time.sleep(0.02)
        return 0


@functools.cache
def _zygote() -> subprocess.Popen[bytes]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        cwd=Path(__file__).parents[2],
        start_new_session=True,
    )


def start(module: str, arguments: list[str], environment: dict[str, str], log: Path) -> Forked:
    """Run `python -m module` in a process group of its own."""
    zygote = _zygote()
    assert zygote.stdin is not None
    assert zygote.stdout is not None
    order = {"module": module, "arguments": arguments, "env": environment, "log": str(log)}
    zygote.stdin.write(json.dumps(order).encode() + b"\n")
    zygote.stdin.flush()
    answer = zygote.stdout.readline()
    assert answer, "the process that forks servers has ended"
    return Forked(int(answer))


def _forget_parent() -> None:
    """In an engine core or a worker: nothing of the parent's signals; plugins load again."""
    import vllm.plugins

    signal.set_wakeup_fd(-1)
    vllm.plugins.plugins_loaded = False


def _become(order: dict[str, Any], ready: int) -> None:
    from vllm.platforms.cpu import CpuPlatform
    from vllm.utils import system_utils

    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log = os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.write(ready, b".")  # from here on its group can be killed, and its log be read
    os.close(ready)
    os.environ.clear()
    os.environ |= order["env"]
    check = CpuPlatform.check_and_update_config.__func__  # type: ignore[attr-defined]

    def and_fork(cls: type[CpuPlatform], config: Any) -> None:
        check(cls, config)
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"

    CpuPlatform.check_and_update_config = classmethod(and_fork)  # type: ignore[method-assign]
    system_utils._maybe_force_spawn = lambda: None
    os.register_at_fork(after_in_child=_forget_parent)
    sys.argv = [order["module"], *order["arguments"]]
    runpy.run_module(order["module"], run_name="__main__", alter_sys=True)


def main() -> None:
    import importlib

    for module in PRELOADED:
        importlib.import_module(module)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended servers are no zombies
    for line in sys.stdin.buffer:
        forked, ready = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(forked)
            _become(json.loads(line), ready)
            return
        os.close(ready)
        os.read(forked, 1)
        os.close(forked)
        print(pid, flush=True)


if __name__ == "__main__":
    main()
