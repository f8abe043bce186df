"""Steps that an operator adds to the memory pipeline: what an entry point `memos.steps` names.

    recall   read → [rewrite] → search → [link, rerank, …] → budget → render    a question's way to memory
    learn    read → claims → support check → […] → merge → index               a turn's way into memory

A step is a function that takes the state and gives the next one back; it is named in the configuration
(`pipeline.recall`, `pipeline.learn`) and they run in that order.  One that raises is left out, with a log
line and a metric: memory gets by without it, and no chat fails.  Steps of `recall` run on every
request's way to its first token; they should take less than a millisecond.

    [project.entry-points."memos.steps"]
    fresh = "my_package.steps:fresh"

`examples/step_fresh.py` is a whole one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from memos_vllm import metrics
from memos_vllm.errors import ConfigError
from memos_vllm.steps import link, rerank
from memos_vllm.steps.state import Learn, Recall, State, Step
from memos_vllm.steps.variety import distinct, diverse

if TYPE_CHECKING:
    from memos_vllm.system import MemorySystem

__all__ = ["BUILT_IN", "GROUP", "Learn", "Recall", "State", "Step", "load", "run"]
log = logging.getLogger(__name__)
GROUP = "memos.steps"


BUILT_IN: dict[str, Callable[[MemorySystem], Step[Any]]] = {
    "link": link.step,
    "rerank": rerank.step,
    "diverse": lambda system: diverse,
    "distinct": lambda system: distinct,
}
"""By name, made for a system. See their docstrings."""


def load(names: Sequence[str], system: MemorySystem) -> list[tuple[str, Callable[[Any], Any]]]:
    """The steps of these names. Raises ConfigError: there is none of a name, or it cannot be imported."""
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    steps: list[tuple[str, Callable[[Any], Any]]] = []
    for name in names:
        if name in BUILT_IN:
            steps.append((name, BUILT_IN[name](system)))
            continue
        if name not in found:
            known = ", ".join(sorted({*BUILT_IN, *found}))
            raise ConfigError(f"there is no step {name!r} (entry points `{GROUP}`); known: {known}")
        try:
            step = found[name].load()
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"the step {name!r} cannot be imported: {error}") from error
        if not callable(step):
            raise ConfigError(f"the step {name!r} is no function")
        steps.append((name, step))
    return steps


def run(steps: Sequence[tuple[str, Step[State]]], state: State) -> State:
    """One after the other."""
    for name, step in steps:
        try:
            after = step(state)
        except Exception:  # somebody else's code: whatever it raises, the chat goes on without it
            log.exception("the step %s is left out", name)
            metrics.STEP_FAILURES.labels(name).inc()
            continue
        if not isinstance(after, type(state)):
            log.error("the step %s gave back no %s and is left out", name, type(state).__name__)
            metrics.STEP_FAILURES.labels(name).inc()
            continue
        state = after
    return state
