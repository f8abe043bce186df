"""Processes of a server by their role, and the kill of one."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil

from benchmarks.crash.services import SERVICES
from tests.engine.harness import Server
from tests.engine.processes import alive, tree

API = "API process"
_IN_COMMAND = {
    "encoder": "plaintext.embed.process",
    "document parser": "plaintext.documents.child",
    "Chroma": "plaintext.search.chroma_child",
}
_IN_NAME = {"engine core": "EngineCore", "worker": "Worker"}
REPLACED = tuple(_IN_COMMAND)
"""The server starts these again by itself; it ends with any of the others."""
PROCESSES = (API, *_IN_NAME, *_IN_COMMAND)
VICTIMS = (*PROCESSES, *SERVICES)
END_SECONDS = 40.0


def processes(server: Server) -> dict[str, psutil.Process]:
    """Processes by role; roles whose process has not been needed yet are absent."""
    root, *children = tree(server)
    found = {API: root}
    for child in children:
        try:
            command, name = child.cmdline(), child.name()
        except psutil.NoSuchProcess:
            continue
        title = " ".join([name, *command])
        for role, part in (_IN_COMMAND | _IN_NAME).items():
            if part in title:
                found.setdefault(role, child)
    return found


def kill(server: Server, victim: str) -> list[str]:
    """SIGKILL one process, and wait until those that depend on it have ended.

    Returns:
        Processes that outlive it, by command line; they are killed.
    """
    everything = tree(server)
    process = processes(server)[victim]
    below = process.children(recursive=True)
    process.kill()
    dependent = [process, *below] if victim in REPLACED else everything
    ended_in_time(lambda: not alive(dependent), END_SECONDS)
    left = alive(dependent)
    shown = [" ".join(each.cmdline())[:120] for each in left]
    for each in left:
        each.kill()
    if victim not in REPLACED:
        server.kill()  # takes the exit code of its root
    return shown


def ended_in_time(condition: Callable[[], bool], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True
