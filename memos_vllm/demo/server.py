"""The demo's server as a child process: start it, wait for `/ready`, stop its process group.

vLLM is a tree of processes (API server, engine core, workers). It runs in its own process group, and
signals go to the group; it also ends with the thread that starts it.
"""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import httpx
import psutil

from memos_vllm import lifeline
from memos_vllm.errors import ConfigError

START_SECONDS = 600.0
STOP_SECONDS = 15.0
TAIL_LINES = 25


class ServerFailed(Exception):
    """The server ended, or did not answer in time; the message contains the tail of its log."""


def require_free_port(host: str, port: int) -> None:
    """Check that a port is free before the server starts, half a minute before its log would say so.

    Raises:
        ConfigError: the port cannot be bound.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"port {port} on {host} cannot be used ({error.strerror}): another server or demo may"
                " still run. Choose a free port with --port"
            ) from error


class DemoServer:
    """A running server; ``stop`` ends all of its processes."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], log: Path, url: str) -> None:
        self.log = log
        self.url = url
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                lifeline.launched(command),
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_ready(self, progress: Callable[[float, str], None]) -> None:
        """Poll ``GET /ready``; ``progress`` receives the elapsed seconds and the last log line.

        Raises:
            ServerFailed: the process ended, or has not answered within ``START_SECONDS``.
        """
        started = time.monotonic()
        with httpx.Client(base_url=self.url, timeout=2.0, trust_env=False) as client:
            while not self._answers(client):
                elapsed = time.monotonic() - started
                if self._process.poll() is not None:
                    raise self._failed(f"the server ended while starting, {self._how_it_ended()}")
                if elapsed > START_SECONDS:
                    raise self._failed(f"the server did not answer within {START_SECONDS:.0f} s")
                progress(elapsed, next(iter(self._tail(1)), ""))
                time.sleep(0.25)

    def wait(self) -> None:
        """Wait until the server ends by itself, and raise; never returns.

        Raises:
            ServerFailed: the server ended.
        """
        self._process.wait()
        raise self._failed(f"the server ended, {self._how_it_ended()}")

    def stop(self) -> bool:
        """Send SIGTERM to the group, and SIGKILL to processes alive after ``STOP_SECONDS``.

        Returns whether SIGTERM sufficed. An interrupt while waiting sends SIGKILL at once.
        """
        gentle = False
        try:
            self._signal(signal.SIGTERM)
            gentle = self._ended_within(STOP_SECONDS)
        finally:
            if not gentle:
                self._signal(signal.SIGKILL)
                self._ended_within(5.0)
        return gentle

    def _answers(self, client: httpx.Client) -> bool:
        try:
            return client.get("/ready").status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _ended_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self._group_is_alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True

    def _group_is_alive(self) -> bool:
        self._process.poll()  # reaps the root process
        return any(map(self._is_live_member, psutil.pids()))

    def _is_live_member(self, pid: int) -> bool:
        """Whether a process is in the group and no zombie: an orphan may never be reaped by init."""
        try:
            if os.getpgid(pid) != self._process.pid:
                return False
            return not lifeline.has_ended(psutil.Process(pid))
        except (ProcessLookupError, psutil.NoSuchProcess):
            return False

    def _how_it_ended(self) -> str:
        code = self._process.returncode
        if code is not None and code < 0:
            return f"killed by {signal.Signals(-code).name}"
        return f"exit code {code}"

    def _failed(self, what: str) -> ServerFailed:
        tail = "\n".join(f"  {line}" for line in self._tail(TAIL_LINES))
        return ServerFailed(f"{what}. The end of {self.log}:\n{tail}")

    def _tail(self, lines: int) -> list[str]:
        """The last non-blank lines within the last 64 KiB of the log."""
        with self.log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 65536))
            text = file.read().decode("utf-8", errors="replace")
        return [line for line in text.splitlines() if line.strip()][-lines:]
