"""End this process when its parent ends, however that happens; whether another has ended."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Sequence

import psutil

POLL_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1


def end_with(parent: int, notice_seconds: float = 0.0) -> None:
    """Kill this process as soon as the process `parent` has ended.

    A thread waits for the parent, not `PR_SET_PDEATHSIG`: that signal is sent when the *thread* ends
    that started the child, and request threads end while their server lives.

    Args:
        notice_seconds: SIGTERM comes first, SIGKILL so much later.
    """
    threading.Thread(
        target=_watch, args=(parent, notice_seconds), name="lifeline", daemon=True
    ).start()


def launched(command: Sequence[str]) -> list[str]:
    """The command of a process that the kernel kills when the calling thread ends.

    From its first moment, and through `execve`: for servers, whose imports take long before
    `end_with` could run.  Call it, and start the process, from a thread that lives as long as this
    process: the main thread.
    """
    return [sys.executable, "-m", __name__, str(os.getpid()), *command]


def has_ended(process: psutil.Process) -> bool:
    """Whether nothing of a process runs any more; a zombie has ended.

    Linux shows a zombie as soon as the *main thread* has ended.  The others of a killed process may
    still run for a while, and hold its sockets, files and memory until the last one ends.
    """
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1)
    except psutil.NoSuchProcess:
        return True


def _watch(parent: int, notice_seconds: float) -> None:
    try:
        descriptor = os.pidfd_open(parent)
    except (AttributeError, OSError):  # no Linux, or no parent any more
        descriptor = -1
    while os.getppid() == parent:  # also guards against a reused process id
        if descriptor < 0:
            time.sleep(POLL_SECONDS)
        else:
            select.select([descriptor], [], [], POLL_SECONDS)
    if notice_seconds:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(notice_seconds)
    os.kill(os.getpid(), signal.SIGKILL)


def main(arguments: list[str]) -> None:
    """Become the command, with the signal of the parent's end set."""
    parent, command = int(arguments[0]), arguments[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == parent:  # else it ended before the line above
        os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
