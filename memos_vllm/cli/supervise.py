"""`memos serve --restart`: run the server as a child process, and start it again when it fails.

The server is a tree of processes in one process group.  Whatever ends its root, the rest of the group is
killed before the next start: it would hold the port, the memory and the index.  The kernel kills the
server when this process ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType

import httpx
import psutil

from memos_vllm import lifeline
from memos_vllm.cli.terminal import say
from memos_vllm.config.serve import ServeConfig

LOOK_SECONDS = 0.25
PROBE_SECONDS, STARTING_SECONDS = 5.0, 1.0
STEADY_SECONDS = 600.0
"""Of service, after which earlier failures no longer count."""
LONGEST_DELAY_SECONDS = 60.0
ENGINE_ENDED = 70
"""Exit code of a server that was ready and whose engine ended (`engine.liveness.EXIT_CODE`)."""
EXIT_CODE = 1
"""Of a server that was killed for its silence too often."""
_END_SECONDS = 20.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


@dataclasses.dataclass(frozen=True, slots=True)
class Health:
    """Where the server answers `GET /health`."""

    url: str
    uds: str | None = None
    """Path of a Unix socket."""

    def answers(self) -> bool:
        """Whether the server answers, and does not say that its engine is gone.

        Another status than 200 is an answer, too: the operator may have closed the route.
        """
        transport = httpx.HTTPTransport(uds=self.uds, verify=False) if self.uds else None
        try:
            # Its own server, whose certificate names another host than the loopback address.
            with httpx.Client(
                transport=transport, timeout=PROBE_SECONDS, trust_env=False, verify=False
            ) as client:
                return not client.get(f"{self.url}/health").is_server_error
        except httpx.HTTPError:
            return False


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """How one run of the server ended."""

    code: int
    """As `Popen.returncode`: negative for a signal."""
    was_ready: bool
    seconds: float
    """Of service."""
    silent: bool = False
    """Whether it was killed because it did not answer."""

    @property
    def exit_code(self) -> int:
        if self.silent:
            return EXIT_CODE
        return 128 - self.code if self.code < 0 else self.code

    def __str__(self) -> str:
        if self.silent:
            return "killed, because it did not answer"
        return f"{signal.Signals(-self.code).name}" if self.code < 0 else f"exit code {self.code}"


class Supervisor:
    """Runs one server at a time. `run` belongs into the main thread, which gets the signals."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        health: Health,
        settings: ServeConfig,
    ) -> None:
        self._command, self._environment = command, environment
        self._health, self._settings = health, settings
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = threading.Event()  # by a signal

    def run(self) -> int:
        """Serve until the server ends on purpose or fails too often.

        Returns:
            The exit code: that of the server, or 128 and the number of the signal that ended it.
        """
        failures = 0
        with self._forwarded_signals():
            while True:
                run = self._serve()
                if self._stopped.is_set() or (run.code == 0 and not run.silent):
                    return run.exit_code
                if not failures and not run.was_ready and not run.silent:
                    say(f"the server ended while it started ({run}): not started again")
                    return run.exit_code
                failures = 1 if run.seconds > STEADY_SECONDS else failures + 1
                if failures > self._settings.restart_limit:
                    say(f"the server ended ({run}), {failures} times in a row: not started again")
                    return run.exit_code
                delay = min(2.0 ** (failures - 1), LONGEST_DELAY_SECONDS)
                say(
                    f"the server ended ({run}); it is started again in {delay:g} s, "
                    f"{failures} of {self._settings.restart_limit}"
                )
                if self._stopped.wait(delay):
                    return run.exit_code

    def _serve(self) -> Run:
        """One run, until no process of it is left."""
        process = subprocess.Popen(
            lifeline.launched(self._command), env=dict(self._environment), start_new_session=True
        )
        self._process = process
        if self._stopped.is_set():  # a signal came before the line above
            process.send_signal(signal.SIGTERM)
        try:
            ready_at, silent = self._wait(process)
        finally:
            end_group(process)
            self._process = None
        return Run(
            code=process.returncode,
            was_ready=ready_at is not None or process.returncode == ENGINE_ENDED,
            seconds=time.monotonic() - ready_at if ready_at is not None else 0.0,
            silent=silent,
        )

    def _wait(self, process: subprocess.Popen[bytes]) -> tuple[float | None, bool]:
        """Wait for the end of the server, or of its answers.

        Returns:
            (monotonic time of its first answer, whether it has been silent for too long)
        """
        ready_at = None
        answered = probed = time.monotonic()
        while process.poll() is None:
            time.sleep(LOOK_SECONDS)
            now = time.monotonic()
            pause = PROBE_SECONDS if ready_at is not None else STARTING_SECONDS
            if self._stopped.is_set() or now - probed < pause:
                continue
            if now - probed > 2 * PROBE_SECONDS + LOOK_SECONDS:
                answered += now - probed  # this process was stopped; the server may have been, too
            probed = now
            if self._health.answers():
                answered = time.monotonic()
                ready_at = ready_at or answered
            elif now - answered > self._patience(ready_at):
                say(f"the server has not answered for {self._patience(ready_at):g} s")
                return ready_at, True
        return ready_at, False

    def _patience(self, ready_at: float | None) -> float:
        settings = self._settings
        return settings.start_seconds if ready_at is None else settings.stall_seconds

    @contextlib.contextmanager
    def _forwarded_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._forward) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _forward(self, _number: int, _frame: FrameType | None) -> None:
        """The first signal stops the server as SIGTERM does; a second one kills it."""
        again = self._stopped.is_set()
        self._stopped.set()
        if (process := self._process) is not None and process.poll() is None:
            process.send_signal(signal.SIGKILL if again else signal.SIGTERM)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a process's group, and wait until it is gone."""
    until = time.monotonic() + _END_SECONDS
    while left := list(members(process.pid)):
        for each in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        if time.monotonic() > until:
            say(f"processes of the server do not end: {[each.pid for each in left]}")
            return
        time.sleep(LOOK_SECONDS / 5)
    process.wait(_END_SECONDS)


def members(group: int) -> Iterator[psutil.Process]:
    """Processes of a group that have not ended."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getpgid(process.pid) == group and not lifeline.has_ended(process):
                yield process
