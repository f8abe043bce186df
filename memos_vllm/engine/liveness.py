"""A server whose engine has died or hangs ends whole, within seconds, with an exit code that says so.

vLLM's own server ends its requests with errors and then itself when the engine core dies, but with
exit code 0, after any time that a client takes to read its reply, and not when the core hangs.  A
thread watches, so that a blocked event loop is found, too.  `memos serve --restart`, systemd or
Kubernetes then start the server again.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import math
import os
import sys
import threading
import time
from typing import Any

from memos_vllm.learning.background import BackgroundTasks

log = logging.getLogger(__name__)

EXIT_CODE = 70
"""Of a server whose engine ended or hung: `EX_SOFTWARE` of sysexits.h."""
POLL_SECONDS = 0.5
HEARTBEAT_SECONDS = 5.0
GRACE_SECONDS = 10.0
"""For clients to receive the errors of their requests."""
_LONGEST_POLL = 2 * POLL_SECONDS


class EngineWatch:
    """Watches one engine client from the API server's process."""

    def __init__(self, engine_client: Any, state: Any, stall_seconds: float) -> None:
        """Prepare the watch; `start` starts it.

        Args:
            engine_client: vLLM's.
            state: vLLM's `app.state`, which gets the HTTP server later.
            stall_seconds: longest time without an answer of the engine core between two steps.
        """
        self._client, self._state = engine_client, state
        self._stall_seconds = stall_seconds
        self._silent_seconds = 0.0
        self._stopping = False
        self._lock = threading.Lock()
        self.problem: str | None = None
        """What ended the engine; None: it serves, or was stopped on purpose."""

    def start(self, tasks: BackgroundTasks) -> None:
        """Start the heartbeat and the thread; called in the server's event loop."""
        self._note_shutdown()
        tasks.spawn(self._heartbeat())
        threading.Thread(target=self._watch, name="memos-engine-watch", daemon=True).start()

    def exit_if_dead(self) -> None:
        """Give the process its exit code; the last handler that `atexit` calls."""
        if self.problem is not None:
            _exit()

    def _note_shutdown(self) -> None:
        """An engine that is shut down on purpose counts as errored afterwards: note the purpose."""
        shutdown = self._client.shutdown

        def noted(*args: Any, **kwargs: Any) -> Any:
            self._look()
            self._stopping = True
            return shutdown(*args, **kwargs)

        self._client.shutdown = noted

    async def _heartbeat(self) -> None:
        """Ask the engine core for an answer, which it gives between two steps."""
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            while True:
                await self._client.is_sleeping()
                self._silent_seconds = 0.0
                await asyncio.sleep(HEARTBEAT_SECONDS)
        except EngineDeadError:
            return  # the thread sees it, too
        finally:
            self._silent_seconds = -math.inf  # without a heartbeat, silence says nothing

    def _watch(self) -> None:
        before = time.monotonic()
        while not self._stopping:
            time.sleep(POLL_SECONDS)
            now = time.monotonic()
            # A process that was stopped as a whole learns nothing about its engine from that time.
            self._silent_seconds += min(now - before, _LONGEST_POLL)
            before = now
            self._look()
            if self.problem is not None:
                self._end()

    def _look(self) -> None:
        """Note, once, that the engine is dead or hangs."""
        with self._lock:
            if self._stopping or self.problem is not None:
                return
            if self._client.errored:
                self.problem = "the engine has ended"
            elif self._silent_seconds > self._stall_seconds:
                self.problem = (
                    f"the engine has answered nothing for {self._stall_seconds:g} s "
                    "(serve.stall_seconds)"
                )
            else:
                return
        log.critical(
            "%s: this server ends with exit code %d. `memos serve --restart` starts it again",
            self.problem,
            EXIT_CODE,
        )

    def _end(self) -> None:
        """Let the HTTP server end; then the process, whatever still holds it."""
        server = getattr(self._state, "server", None)
        if server is not None:
            server.should_exit = True
        time.sleep(GRACE_SECONDS)
        _exit()


def watch(
    engine_client: Any, state: Any, stall_seconds: float, tasks: BackgroundTasks
) -> EngineWatch | None:
    """Start the watch of an engine.

    Returns:
        None: the operator keeps servers alive without an engine (`VLLM_KEEP_ALIVE_ON_ENGINE_DEATH`).
    """
    from vllm import envs

    if getattr(envs, "VLLM_KEEP_ALIVE_ON_ENGINE_DEATH", False):
        return None
    made = EngineWatch(engine_client, state, stall_seconds)
    made.start(tasks)
    return made


def exit_last(state: Any) -> None:
    """Set the exit code at the end of the interpreter, after all handlers that are registered later."""

    def exit_if_dead() -> None:
        found: EngineWatch | None = getattr(state, "memos_watch", None)
        if found is not None:
            found.exit_if_dead()

    atexit.register(exit_if_dead)


def _exit() -> None:
    """End this process; its children end with it (`lifeline`)."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_CODE)
