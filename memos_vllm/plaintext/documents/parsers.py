"""Parsing processes: a document that is hostile costs itself, not the server.

A process is started at the first document and kept for the next ones.  It is killed when a document
exceeds a limit, when its client goes away, and when the server ends.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

from memos_vllm import errors
from memos_vllm.config.reader import DocumentsConfig
from memos_vllm.cube.model import Item, ItemType
from memos_vllm.errors import MemosError, TooLarge, Unavailable, Unprocessable

log = logging.getLogger(__name__)

_MODULE = "memos_vllm.plaintext.documents.child"
_THREADS = 64
_POLL_SECONDS = 0.05
_START_SECONDS, _END_SECONDS = 30.0, 1.0
READY, LAST = b"ready", b"last"  # as in the child
_MOST_WAITING = 16  # documents of one tenant
_KEPT_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH")
_ADVICE = "send it in parts, or as plain text"


class Cancelled(Unavailable):
    """The client has gone away."""


class DocumentParsers:
    """Reads documents in processes of their own. Thread-safe."""

    def __init__(self, config: DocumentsConfig) -> None:
        self._config = config
        self._state = threading.Condition()
        self._idle: list[_Process] = []
        self._running: set[_Process] = set()
        self._places: Counter[str] = Counter()  # in use, by tenant
        self._waiting: Counter[str] = Counter()
        self._closed = False
        # Documents that wait never take the threads of chats.
        self.threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="memos-documents")
        # PR_SET_PDEATHSIG follows the thread that starts a process: one that lives as long as we do.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="memos-parsers")

    def read(
        self,
        name: str,
        data: bytes | Callable[[], bytes],
        max_bytes: int,
        *,
        tenant: str = "",
        gone: threading.Event | None = None,
    ) -> list[Item]:
        """A document's passages, as `read_document`.

        Args:
            data: its bytes, or what reads them once a process is free.
            tenant: never holds all processes while there are several.
            gone: set when the request has ended; the process is killed.

        Raises:
            TooLarge: over `max_bytes` or a limit of `reader.documents`.
            BadRequest, Unprocessable: as `read_document`; or the document ended its parser.
            Unavailable: all processes are busy, or none can be started.
        """
        gone = gone or threading.Event()
        self._enter(tenant, gone)
        try:
            whole = data if isinstance(data, bytes) else data()
            if len(whole) > max_bytes:
                raise TooLarge(f"more than {max_bytes} bytes (limits.document_bytes)", param="file")
            process = self._taken()
            try:
                answer = self._exchange(process, name, whole, max_bytes, gone)
            finally:
                self._put_back(process)
        finally:
            self._leave(tenant)
        if "error" in answer:
            raise self._error(answer)
        return [
            Item(type=ItemType.PASSAGE, text=text, source=source)
            for text, source in answer["passages"]
        ]

    def close(self) -> None:
        """Kill all processes; waiting callers get an error."""
        with self._state:
            self._closed = True
            for process in [*self._idle, *self._running]:
                process.kill()
            self._idle.clear()
            self._state.notify_all()
        self.threads.shutdown(wait=False, cancel_futures=True)
        self._starter.shutdown(wait=True)

    @property
    def pids(self) -> list[int]:
        """Process ids of all parsers."""
        with self._state:
            return [process.pid for process in [*self._idle, *self._running]]

    # -- inside -----------------------------------------------------------------------------------

    def _enter(self, tenant: str, gone: threading.Event) -> None:
        """Wait for a place. Raises Unavailable."""
        with self._state:
            if self._waiting[tenant] >= _MOST_WAITING:
                raise Unavailable("too many documents of this tenant wait; try again later")
            self._waiting[tenant] += 1
        try:
            self._wait_for_place(tenant, gone)
        finally:
            with self._state:
                self._waiting[tenant] -= 1
                if not self._waiting[tenant]:
                    del self._waiting[tenant]

    def _wait_for_place(self, tenant: str, gone: threading.Event) -> None:
        places = self._places
        share = max(1, self._config.processes - 1)
        until = time.monotonic() + self._config.wait_seconds
        with self._state:
            while places.total() >= self._config.processes or places[tenant] >= share:
                if self._closed or gone.is_set() or time.monotonic() >= until:
                    raise Unavailable(
                        "all document parsers are busy (reader.documents.processes); try again later"
                    )
                self._state.wait(_POLL_SECONDS)
            places[tenant] += 1

    def _leave(self, tenant: str) -> None:
        with self._state:
            self._places[tenant] -= 1
            if not self._places[tenant]:
                del self._places[tenant]
            self._state.notify_all()

    def _taken(self) -> _Process:
        with self._state:
            while self._idle:
                process = self._idle.pop()
                if process.runs:
                    self._running.add(process)
                    return process
                process.kill()
            if self._closed:
                raise Unavailable("the document parsers are closed")
        try:
            process = self._starter.submit(_Process, self._config.memory_bytes).result()
        except (OSError, RuntimeError) as error:
            raise Unavailable(f"no document parser can be started: {error}") from error
        with self._state:
            self._running.add(process)
        return process

    def _put_back(self, process: _Process) -> None:
        with self._state:
            self._running.discard(process)
            if process.is_idle and not self._closed:
                self._idle.append(process)
                return
        process.kill()

    def _exchange(
        self, process: _Process, name: str, data: bytes, max_bytes: int, gone: threading.Event
    ) -> dict[str, Any]:
        """Send a document and wait for the answer; without one, the process is not idle again."""
        limits = self._config
        order = {
            "name": name,
            "max_bytes": max_bytes,
            "depth": limits.depth,
            "seconds": limits.seconds,
            "output_bytes": limits.output_bytes,
        }
        process.is_idle = False
        try:
            if not process.is_ready():
                raise Unavailable("the document parser does not start; try again later")
            process.connection.send_bytes(json.dumps(order).encode())
            process.connection.send_bytes(data)
            until = time.monotonic() + limits.seconds
            while not process.connection.poll(_POLL_SECONDS):
                if gone.is_set() or self._closed:
                    raise Cancelled("the request was ended")
                if time.monotonic() > until:
                    raise TooLarge(self._over_time(), param="file")
            answer: dict[str, Any] = json.loads(process.connection.recv_bytes())
            process.is_idle = (
                answer.get("message") != "memory" and process.connection.recv_bytes() != LAST
            )
        except (EOFError, OSError) as error:
            raise self._ended(process) from error
        return answer

    def _over_time(self) -> str:
        return (
            f"the document takes longer than {self._config.seconds:g} seconds to read "
            f"(reader.documents.seconds); {_ADVICE}"
        )

    def _ended(self, process: _Process) -> MemosError:
        code = process.code()
        if code in (-signal.SIGXCPU, -signal.SIGALRM):
            return TooLarge(self._over_time(), param="file")
        log.warning("a document ended its parser (%s)", code)
        return Unprocessable(f"the document ended its parser; {_ADVICE}", param="file")

    def _error(self, answer: dict[str, Any]) -> MemosError:
        known: type[MemosError] = getattr(errors, answer["error"])
        limits = self._config
        message = {
            "memory": f"the document takes more than {limits.memory_bytes} bytes of memory to read "
            f"(reader.documents.memory_bytes); {_ADVICE}",
            "output": f"the document holds more than {limits.output_bytes} bytes of text "
            f"(reader.documents.output_bytes); {_ADVICE}",
        }.get(answer["message"], answer["message"])
        return known(message, param="file")


class _Process:
    def __init__(self, memory_bytes: int) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", _MODULE),
                    *(str(theirs.fileno()), str(os.getpid()), str(memory_bytes)),
                ],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                # No keys, no URLs of databases: a document that takes a parser over finds none.
                env={key: os.environ[key] for key in _KEPT_ENVIRONMENT if key in os.environ},
            )
        self.connection = Connection(ours.detach())
        self.is_idle = True
        self._ready = False

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    def is_ready(self) -> bool:
        """Wait for the end of its imports; they are not the document's time. Raises EOFError, OSError."""
        if not self._ready and self.connection.poll(_START_SECONDS):
            self._ready = self.connection.recv_bytes() == READY
        return self._ready

    def code(self) -> int:
        """The exit code of a process that has closed its end."""
        try:
            return self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._process.returncode

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self.is_idle = False
