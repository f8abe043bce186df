"""A parsing process: one piece of work at a time, within limits that the kernel enforces.

It holds no keys, no connections and no other work, and ends with its parent.  A module with a `main` of its
own says what it reads (`plaintext.documents.child`, `parametric.adapter.child`).

The protocol, over a socket pair; each line is a message:

    parent ─▶ order (JSON), data
    child  ─▶ answer (JSON), body, then empty, or LAST: it ends
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from memos_vllm.errors import MemosError

_PR_SET_PDEATHSIG = 1
_NICENESS = 10  # uploads wait for chats
_OPEN_FILES = 64
READY, LAST = b"ready", b"last"
_OVER_MEMORY = {"error": "TooLarge", "message": "memory"}

Answer = tuple[dict[str, Any], bytes]
"""What goes back: JSON, and bytes."""
Read = Callable[[dict[str, Any], bytes], Answer]
"""Reads the data of an order. May raise any MemosError."""


def run(read: Read, libraries: Sequence[str]) -> None:
    """Serve the parent that started this process; the body of a child's `main`.

    Args:
        libraries: imported before any work: its cost is its own.
    """
    descriptor, parent, memory_bytes = (int(word) for word in sys.argv[1:4])
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for library in libraries:
        importlib.import_module(library)
    _limit(memory_bytes)
    connection = Connection(descriptor)
    connection.send_bytes(READY)
    _serve(connection, read, memory_bytes)


def _serve(connection: Connection, read: Read, memory_bytes: int) -> None:
    """Answer orders until the connection is closed."""
    before = _address_space()
    while True:
        try:
            order: dict[str, Any] = json.loads(connection.recv_bytes())
            _limit_time(order["seconds"])
            answer, body = _answer(read, order, connection)
        except (EOFError, OSError):
            return
        except MemoryError:
            answer = {}
        if not answer:
            connection.send_bytes(json.dumps(_OVER_MEMORY).encode())
            return  # the heap may be in pieces
        signal.setitimer(signal.ITIMER_REAL, 0)
        connection.send_bytes(json.dumps(answer).encode())
        connection.send_bytes(body)
        del answer, body
        # A large heap would be charged to the next work.
        is_large = _address_space() - before > memory_bytes // 4
        connection.send_bytes(LAST if is_large else b"")
        if is_large:
            return


def _answer(read: Read, order: dict[str, Any], connection: Connection) -> Answer:
    data = connection.recv_bytes()
    try:
        return read(order, data)
    except MemosError as error:
        told = {"error": type(error).__name__, "message": error.message, "param": error.param}
        return told, b""


def _address_space() -> int:
    """Bytes; what the memory limit counts."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _limit_time(seconds: float) -> None:
    """End this process after so much time and processor time; the kernel does it, also inside C code."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    most = int(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (most, resource.RLIM_INFINITY))
    signal.setitimer(signal.ITIMER_REAL, seconds + 1)


def _limit(memory_bytes: int) -> None:
    for kind, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
    ):
        resource.setrlimit(kind, (most, most))
    os.nice(_NICENESS)
