"""Threads beside the engine's, in a worker: they copy KV while the engine computes, and take nothing from it.

The engine binds each of its OpenMP threads to a core and lets them spin at barriers. libgomp counts the threads of all
teams of a process: where they outnumber the cores, every team's threads sleep at each barrier instead, for as long as
the process runs. One parallel operator in a thread of ours made such a second team, and each decoding step of the
engine took a third longer from then on.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import torch

_MOST_LOADING = 4


def beside_engine() -> None:
    """Initialise a thread: it runs on any core of the process, and its torch operators in it alone.

    A thread inherits the core of its parent.
    """
    os.sched_setaffinity(0, _cores())
    # The first parallel operator of a thread takes the number of the process, unless it was read before.
    torch.get_num_threads()
    # vLLM's CPU worker replaces `torch.set_num_threads` by a function that does nothing: its own threads are bound.
    torch._C.set_num_threads(1)


def loading_threads() -> int:
    """Threads of a load that a step computes on: the engine's threads wait for it."""
    return min(_MOST_LOADING, len(_cores()))


def _cores() -> set[int]:
    """Cores that this process's threads may run on."""
    cores: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            cores |= os.sched_getaffinity(int(task.name))
    return cores
