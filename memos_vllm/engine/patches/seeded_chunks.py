"""0003: a discarded sample on the CPU does not advance the generator of a seeded request.

vLLM samples every request of a step, also one whose prompt is not computed to its end, and then sets
the generator back by an offset.  CPU generators have none, and the engine ends.  Without its generator in
the batch, such a request samples from the default one, and its own is never advanced.  See
`patches/0003-seeded-chunks.md`.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

NAME = "0003-seeded-chunks"
METHODS = ("_sample", "_bookkeeping_sync")
_RUNNER = "vllm.v1.worker.cpu_model_runner"
_MARK = "_memos_patched"


def install() -> bool:
    """Wrap the CPU runner's methods. False: the platform's generators have offsets. Idempotent."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu() or has_offset(torch.Generator()):
        return False
    runner: Any = importlib.import_module(_RUNNER).CPUModelRunner
    if _MARK not in vars(runner):
        for name in METHODS:
            setattr(runner, name, wrapped(getattr(runner, name)))
        setattr(runner, _MARK, True)
    return True


def has_offset(generator: torch.Generator) -> bool:
    """Whether a generator can be set back by an offset."""
    try:
        generator.get_offset()
    except RuntimeError:
        return False
    return True


def wrapped(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of the runner, without the generators of requests whose sample is discarded."""

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with generators_set_aside(self):
            return method(self, *args, **kwargs)

    return call


@contextmanager
def generators_set_aside(runner: Any) -> Iterator[None]:
    """Take the generators of the discarded rows out of the batch, and put them back afterwards."""
    batch = runner.input_batch
    discarded = np.nonzero(runner.discard_request_mask.np[: batch.num_reqs])[0].tolist()
    generators: dict[int, torch.Generator] = batch.generators
    aside = {row: generators.pop(row) for row in discarded if row in generators}
    try:
        yield
    finally:
        generators.update(aside)
