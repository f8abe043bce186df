"""Steps that an operator adds to the memory pipeline: the entry points in `memos.steps`.

    recall   read → [rewrite] → search → [link, rerank, …] → budget → render    from question to memory
    learn    read → claims → support check → […] → merge → index               from turn to memory

A step is a function from one state to the next; the configuration names the steps (`pipeline.recall`,
`pipeline.learn`), and they run in that order.  A foreign step that raises is left out, with a log line
and a metric: no chat fails by it.  Of a built-in step only `Unavailable` is treated so; its other
errors rise.  Steps of `recall` run before the first token; they should take less than a millisecond.

    [project.entry-points."memos.steps"]
    fresh = "my_package.steps:fresh"

`examples/step_fresh.py` is a complete one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from memos_vllm import metrics
from memos_vllm.errors import ConfigError, Unavailable
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
"""Factories of the built-in steps by name; an entry point of the same name does not replace one."""


def load(names: Sequence[str], system: MemorySystem) -> list[tuple[str, Callable[[Any], Any]]]:
    """The steps of these names, in order.

    Raises:
        ConfigError: no step has the name, or it cannot be imported.
    """
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
    """The state after all steps, in order; without those that fail."""
    for name, step in steps:
        after = _built_in(name, step, state) if name in BUILT_IN else _foreign(name, step, state)
        if after is None:
            metrics.STEP_FAILURES.labels(name).inc()
        else:
            state = after
    return state


def _built_in(name: str, step: Step[State], state: State) -> State | None:
    """The next state; None: the vault or a model that the step needs does not answer."""
    try:
        return step(state)
    except Unavailable as error:
        log.warning("the step %s is left out: %s", name, error)
        return None


def _foreign(name: str, step: Step[State], state: State) -> State | None:
    """The next state; None: the step raised, or returned something else."""
    try:
        after = step(state)
    except Exception:  # foreign code can raise anything, and the chat goes on without it
        log.exception("the step %s is left out", name)
        return None
    if not isinstance(after, type(state)):
        log.error("the step %s gave back no %s and is left out", name, type(state).__name__)
        return None
    return after
