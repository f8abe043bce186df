"""End this process when its parent ends, however that happens."""

from __future__ import annotations

import os
import select
import signal
import threading
import time

POLL_SECONDS = 1.0


def end_with(parent: int) -> None:
    """Kill this process as soon as the process `parent` has ended.

    A thread waits for the parent, not `PR_SET_PDEATHSIG`: that signal is sent when the *thread* ends
    that started the child, and request threads end while their server lives.
    """
    threading.Thread(target=_watch, args=(parent,), name="lifeline", daemon=True).start()


def _watch(parent: int) -> None:
    try:
        descriptor = os.pidfd_open(parent)
    except (AttributeError, OSError):  # no Linux, or no parent any more
        descriptor = -1
    while os.getppid() == parent:  # also guards against a reused process id
        if descriptor < 0:
            time.sleep(POLL_SECONDS)
        else:
            select.select([descriptor], [], [], POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)
