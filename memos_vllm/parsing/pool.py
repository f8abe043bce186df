"""Pools of parsing processes: work that is hostile costs itself, not the server.

A process is started at the first work and kept for the next.  It is killed when its work exceeds a limit,
when the client goes away, and when the server ends.
"""

from __future__ import annotations

import dataclasses
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
from contextvars import ContextVar
from multiprocessing.connection import Connection
from typing import Any, Protocol

from memos_vllm import errors
from memos_vllm.errors import MemosError, TooLarge, Unavailable, Unprocessable
from memos_vllm.parsing.child import LAST, READY

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.05
_START_SECONDS, _END_SECONDS = 30.0, 1.0
_MOST_WAITING = 16  # of one tenant
_KEPT_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH")
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
"""Stacks of threads count as memory."""
REQUEST_ENDED: ContextVar[threading.Event | None] = ContextVar("memos_request_ended", default=None)
"""Set when the client of the current request goes away."""


class Cancelled(Unavailable):
    """The client has gone away."""


class Limits(Protocol):
    """Section of the configuration."""

    @property
    def processes(self) -> int: ...
    @property
    def seconds(self) -> float: ...
    @property
    def memory_bytes(self) -> int: ...
    @property
    def wait_seconds(self) -> float: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Words:
    """What messages call the work and its process."""

    work: str
    works: str
    process: str
    section: str
    """Of the configuration, with the limits."""
    advice: str = ""
    param: str | None = None
    """Parameter of errors that name none."""


class ParsingPool:
    """Has work done in processes of their own. Thread-safe."""

    def __init__(self, module: str, limits: Limits, words: Words) -> None:
        """
        Args:
            module: of the child, which calls `parsing.child.run`.
        """
        self._module, self._limits, self._words = module, limits, words
        self._state = threading.Condition()
        self._idle: list[_Process] = []
        self._running: set[_Process] = set()
        self._places: Counter[str] = Counter()  # in use, by tenant
        self._waiting: Counter[str] = Counter()
        self._closed = False
        # PR_SET_PDEATHSIG follows the thread that starts a process: one that lives as long as we do.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="memos-parsers")

    def work(
        self,
        order: dict[str, Any],
        data: Callable[[], bytes],
        *,
        tenant: str = "",
        gone: threading.Event | None = None,
    ) -> tuple[dict[str, Any], bytes]:
        """What the child's reader returns for an order.

        Args:
            data: called once a process is free; what it raises reaches the caller.
            tenant: never holds all processes while there are several.
            gone: set when the request has ended; the process is killed. Default: `REQUEST_ENDED`.

        Raises:
            TooLarge: over a limit.
            Unprocessable: it ended its process.
            MemosError: what the reader raised.
            Unavailable: all processes are busy, or none can be started.
        """
        gone = gone or REQUEST_ENDED.get() or threading.Event()
        self._enter(tenant, gone)
        try:
            whole = data()
            process = self._taken()
            try:
                answer, body = self._exchange(process, order, whole, gone)
            finally:
                self._put_back(process)
        finally:
            self._leave(tenant)
        if "error" in answer:
            raise self._error(answer)
        return answer, body

    def close(self) -> None:
        """Kill all processes; waiting callers get an error."""
        with self._state:
            self._closed = True
            for process in [*self._idle, *self._running]:
                process.kill()
            self._idle.clear()
            self._state.notify_all()
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
                raise Unavailable(
                    f"too many {self._words.works} of this tenant wait; try again later"
                )
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
        share = max(1, self._limits.processes - 1)
        until = time.monotonic() + self._limits.wait_seconds
        with self._state:
            while places.total() >= self._limits.processes or places[tenant] >= share:
                if self._closed or gone.is_set() or time.monotonic() >= until:
                    raise Unavailable(
                        f"all {self._words.process}s are busy ({self._words.section}.processes); try "
                        "again later"
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
                raise Unavailable(f"the {self._words.process}s are closed")
        try:
            process = self._starter.submit(
                _Process, self._module, self._limits.memory_bytes
            ).result()
        except (OSError, RuntimeError) as error:
            raise Unavailable(f"no {self._words.process} can be started: {error}") from error
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
        self, process: _Process, order: dict[str, Any], data: bytes, gone: threading.Event
    ) -> tuple[dict[str, Any], bytes]:
        """Send work and wait for the answer; without one, the process is not idle again."""
        seconds = self._limits.seconds
        process.is_idle = False
        body = b""
        try:
            if not process.is_ready():
                raise Unavailable(f"the {self._words.process} does not start; try again later")
            process.connection.send_bytes(json.dumps(order | {"seconds": seconds}).encode())
            process.connection.send_bytes(data)
            until = time.monotonic() + seconds
            while not process.connection.poll(_POLL_SECONDS):
                if gone.is_set() or self._closed:
                    raise Cancelled("the request was ended")
                if time.monotonic() > until:
                    raise self._over("time")
            answer: dict[str, Any] = json.loads(process.connection.recv_bytes())
            if answer.get("message") != "memory":
                body = process.connection.recv_bytes()
                process.is_idle = process.connection.recv_bytes() != LAST
        except (EOFError, OSError) as error:
            raise self._ended(process) from error
        return answer, body

    def _over(self, what: str) -> TooLarge:
        words, limits = self._words, self._limits
        over = {
            "time": f"the {words.work} takes longer than {limits.seconds:g} seconds to read "
            f"({words.section}.seconds)",
            "memory": f"the {words.work} takes more than {limits.memory_bytes} bytes of memory to read "
            f"({words.section}.memory_bytes)",
        }
        return TooLarge(self._advised(over[what]), param=words.param)

    def _ended(self, process: _Process) -> MemosError:
        code = process.code()
        if code in (-signal.SIGXCPU, -signal.SIGALRM):
            return self._over("time")
        words = self._words
        log.warning("a %s ended its process (%s)", words.work, code)
        return Unprocessable(self._advised(f"the {words.work} ended its parser"), param=words.param)

    def _error(self, answer: dict[str, Any]) -> MemosError:
        if answer["message"] == "memory":
            return self._over("memory")
        known: type[MemosError] = getattr(errors, answer["error"])
        return known(answer["message"], param=answer.get("param") or self._words.param)

    def _advised(self, message: str) -> str:
        return f"{message}; {self._words.advice}" if self._words.advice else message


class _Process:
    def __init__(self, module: str, memory_bytes: int) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", module),
                    *(str(theirs.fileno()), str(os.getpid()), str(memory_bytes)),
                ],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                # No keys, no URLs of databases: work that takes a process over finds none.
                env={key: os.environ[key] for key in _KEPT_ENVIRONMENT if key in os.environ}
                | _ONE_THREAD,
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
        """Wait for the end of its imports; they are not the work's time. Raises EOFError, OSError."""
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
