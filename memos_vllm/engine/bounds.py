"""Bounds of a request's numbers: the message to the engine core carries integers of 64 bits.

A larger one fails while the message is written, as an error of the server; here it is the client's, which
names the field.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_LEAST, _MOST = -(2**63), 2**63 - 1


def check_integers(params: Any, priority: int = 0) -> None:
    """Refuse integers that do not fit into 64 bits.

    Args:
        params: vLLM's `SamplingParams` or `PoolingParams`.
        priority: of the request.

    Raises:
        VLLMValidationError: names the field; a 400.
    """
    from vllm.exceptions import VLLMValidationError

    fields = {name: getattr(params, name) for name in getattr(params, "__struct_fields__", ())}
    for name, value in {**fields, "priority": priority}.items():
        if not _fits(value):
            raise VLLMValidationError(
                f"{name} holds an integer beyond 64 bits", parameter=name.removeprefix("_")
            )


def _fits(value: Any) -> bool:
    """Whether all integers of a value fit; of numbers, lists and mappings, not of arrays."""
    if isinstance(value, int):
        return _LEAST <= value <= _MOST
    if isinstance(value, Mapping):
        return _fits(list(value)) and _fits(list(value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return _all_fit(value)
    return True


def _all_fit(values: Iterable[Any]) -> bool:
    return all(map(_fits, values))
