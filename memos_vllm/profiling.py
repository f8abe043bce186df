"""Where this process spends its processor time: by thread, and by function.

A thread's time comes from the kernel (`/proc/self/task/*/schedstat`).  At each look, what a thread has used since
the last one is counted for the functions that it is in: waiting costs nothing, and nothing is traced, so that
the process runs on at its speed.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType

_TASKS = Path("/proc/self/task")
_NS = 1_000_000_000
_OWN_PACKAGE = "memos_vllm"
_PACKAGES = ("site-packages", f"python{sys.version_info.major}.{sys.version_info.minor}")
MOST_FUNCTIONS = 10


@dataclasses.dataclass(frozen=True, slots=True)
class FunctionTime:
    """Processor time while a thread was in a function, the innermost of all, and the innermost of ours."""

    function: str
    within: str | None
    """None: no function of memos_vllm is below it."""
    cpu_seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class ThreadTime:
    name: str
    cpu_seconds: float
    functions: tuple[FunctionTime, ...]
    """Those that took most; empty for a thread without Python."""


@dataclasses.dataclass(frozen=True, slots=True)
class Profile:
    seconds: float
    cpu_seconds: float
    """Of all threads but the one that watches."""
    threads: tuple[ThreadTime, ...]
    """Those that ran, the busiest first; threads of one name together."""


def is_possible() -> bool:
    """Whether this system tells the processor time of each thread."""
    return (_TASKS / str(threading.get_native_id()) / "schedstat").exists()


def profile(seconds: float, interval: float = 0.01) -> Profile:
    """Watch all threads but the caller's for so many seconds; blocks.

    Args:
        interval: seconds between two looks.
    """
    used: Counter[int] = Counter()
    functions: dict[int, Counter[tuple[str, str | None]]] = {}
    names: dict[int, str] = {}
    before, started = _times(), time.perf_counter()
    while time.perf_counter() - started < seconds:
        time.sleep(interval)
        now = _times()
        python = {each.native_id: each for each in threading.enumerate()}
        frames = sys._current_frames()
        for task, total in now.items():
            spent = total - before.get(task, total)
            if spent <= 0 or task == threading.get_native_id():
                continue
            used[task] += spent
            thread = python.get(task)
            names[task] = thread.name if thread is not None else _name_of(task)
            frame = frames.get(thread.ident) if thread is not None and thread.ident else None
            if frame is not None:
                functions.setdefault(task, Counter())[_place(frame)] += spent
        del frames
        before = now
    elapsed = time.perf_counter() - started
    spent_in_all = sum(used.values()) / _NS
    return Profile(round(elapsed, 3), round(spent_in_all, 4), _threads(used, functions, names))


def _threads(
    used: Counter[int],
    functions: dict[int, Counter[tuple[str, str | None]]],
    names: dict[int, str],
) -> tuple[ThreadTime, ...]:
    """Threads by name, the busiest first: pools number theirs."""
    time_of: Counter[str] = Counter()
    places: dict[str, Counter[tuple[str, str | None]]] = {}
    for task, spent in used.items():
        name = names[task].rstrip("0123456789").rstrip("_-") or names[task]
        time_of[name] += spent
        places.setdefault(name, Counter()).update(functions.get(task, {}))
    return tuple(
        ThreadTime(
            name,
            round(spent / _NS, 4),
            tuple(
                FunctionTime(function, within, round(part / _NS, 4))
                for (function, within), part in places[name].most_common(MOST_FUNCTIONS)
            ),
        )
        for name, spent in time_of.most_common()
    )


def _times() -> dict[int, int]:
    """Nanoseconds on a processor of each thread."""
    found = {}
    for task in os.listdir(_TASKS):  # noqa: PTH208  # a hundred times a second
        try:
            with open(f"/proc/self/task/{task}/schedstat") as file:  # noqa: PTH123
                found[int(task)] = int(file.read().split()[0])
        except OSError:  # it has ended
            continue
    return found


def _name_of(task: int) -> str:
    """Name of a thread without Python."""
    try:
        return (_TASKS / str(task) / "comm").read_text().strip()
    except OSError:
        return "ended"


def _place(frame: FrameType) -> tuple[str, str | None]:
    """(innermost function, innermost function of ours below it)"""
    innermost, own = _shown(frame), None
    step: FrameType | None = frame
    while step is not None:
        if f"/{_OWN_PACKAGE}/" in step.f_code.co_filename:
            own = _shown(step)
            break
        step = step.f_back
    return innermost, None if own == innermost else own


def _shown(frame: FrameType) -> str:
    """`package/module.py: function`, without the folders of this installation."""
    path = frame.f_code.co_filename
    for folder in (*_PACKAGES, _OWN_PACKAGE):
        _, found, rest = path.partition(f"/{folder}/")
        if found:
            path = rest if folder in _PACKAGES else f"{folder}/{rest}"
            if folder == "site-packages":
                break
    return f"{path}: {frame.f_code.co_qualname}"
