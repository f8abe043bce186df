"""0004: on the CPU, the sampler compiles no code in the middle of a step.

vLLM decorates functions of its sampler with `torch.compile`.  On a CPU that means a C++ compiler, run by
the worker at the first request with `logprobs`, while every other request waits; a compiler that takes longer than
`VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS` ends the engine.  The functions are a comparison and a sum, or a
softmax: nothing is gained by compiling them for a CPU.  See `patches/0004-eager-sampling.md`.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

NAME = "0004-eager-sampling"
MODULES = (
    "vllm.v1.sample.ops.logprobs",
    "vllm.v1.sample.ops.topk_topp_sampler",
    "vllm.v1.sample.sampler",
)
_ORIGINAL = "_torchdynamo_orig_callable"
"""Of a compiled function: the function as it is written."""


def install() -> bool:
    """Put the functions as they are written in place of the compiled ones. Idempotent.

    Returns:
        False: another platform, whose compiler is faster, or which vLLM warms up.
    """
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return False
    for name in MODULES:
        module: Any = importlib.import_module(name)
        for attribute, value in list(vars(module).items()):
            if inspect.isfunction(value) and hasattr(value, _ORIGINAL):
                setattr(module, attribute, getattr(value, _ORIGINAL))
    return True
