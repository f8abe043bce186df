"""0005: a server that gets SIGTERM while it starts ends.

vLLM's handler raises KeyboardInterrupt.  The main thread waits for the engine inside `zmq_poll`, which drops an
exception of a signal handler, and the server goes on starting, and serves.  See `patches/0005-early-end.md`.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

NAME = "0005-early-end"
MODULES = ("vllm.entrypoints.launchers.api_server.entry", "vllm.entrypoints.openai.api_server")
"""Where `run_server` finds `setup_server`, which it calls when it has set its handler: today's, and older ones'."""
_DONE = "memos_early_end"


def install() -> bool:
    """Have `setup_server` set another handler. Idempotent.

    Returns:
        False: this process is no API server of one process.
    """
    for name in MODULES:
        module: Any = sys.modules.get(name)
        setup = getattr(module, "setup_server", None)
        if setup is None or not hasattr(module, "run_server"):
            continue
        if not hasattr(setup, _DONE):
            module.setup_server = _setting_handler(setup)
        return True
    return False


def _setting_handler(setup: Any) -> Any:
    @functools.wraps(setup)
    def setup_server(*arguments: Any, **named: Any) -> Any:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, _end)  # until the server serves, which sets its own
        return setup(*arguments, **named)

    setattr(setup_server, _DONE, True)
    return setup_server


def _end(number: int, _frame: FrameType | None) -> None:
    """End this process at once; its children end with it (`lifeline`)."""
    os.write(2, b"the server was told to end while it started\n")
    os._exit(128 + number)
