"""The parsing process: one document at a time, within limits that the kernel enforces.

It holds no keys, no connections and no other document, imports neither torch nor vLLM, and ends with
its parent.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from memos_vllm.errors import MemosError
from memos_vllm.plaintext.documents.read import read_document

_PR_SET_PDEATHSIG = 1
_NICENESS = 10  # documents wait for chats
_OPEN_FILES = 64
READY, LAST = b"ready", b"last"
_OVER_MEMORY = {"error": "TooLarge", "message": "memory"}


def serve(connection: Connection, memory_bytes: int) -> None:
    """Answer requests until the connection is closed.

    A request is a JSON header and the document's bytes; the answer is JSON: passages, or an error.
    """
    before = _address_space()
    while True:
        try:
            order: dict[str, Any] = json.loads(connection.recv_bytes())
            data = connection.recv_bytes()
        except (EOFError, OSError):
            return
        _limit_time(order["seconds"])
        try:
            answer = _answer(order, data)
        except MemoryError:
            answer = b""
        if not answer:
            connection.send_bytes(json.dumps(_OVER_MEMORY).encode())
            return  # the heap may be in pieces
        signal.setitimer(signal.ITIMER_REAL, 0)
        connection.send_bytes(answer)
        # A large heap would be charged to the next document.
        is_large = _address_space() - before > memory_bytes // 4
        connection.send_bytes(LAST if is_large else b"")
        if is_large:
            return


def _answer(order: dict[str, Any], data: bytes) -> bytes:
    try:
        items = read_document(order["name"], data, order["max_bytes"], order["depth"])
    except MemosError as error:
        return json.dumps({"error": type(error).__name__, "message": error.message}).encode()
    size = sum(len(item.text) for item in items)
    if size > order["output_bytes"]:
        return json.dumps({"error": "TooLarge", "message": "output"}).encode()
    return json.dumps({"passages": [[item.text, item.source] for item in items]}).encode()


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


def main() -> None:
    descriptor, parent, memory_bytes = (int(word) for word in sys.argv[1:4])
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    # The libraries, before any document: a document's cost is its own.
    for library in ("markdown_it", "pypdf"):
        importlib.import_module(library)
    _limit(memory_bytes)
    connection = Connection(descriptor)
    connection.send_bytes(READY)
    serve(connection, memory_bytes)


if __name__ == "__main__":
    main()
