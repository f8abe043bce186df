"""Checks of an adapter's names, pairs, shapes, types and numbers, and its file, with numpy alone.

They run in the process that parses uploads (`adapter.child`), which imports no torch, and for tensors that
are loaded already (`packed.check`).
"""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import safetensors

from memos_vllm.errors import TooLarge, Unprocessable
from memos_vllm.parametric.adapter.peft_config import AdapterConfig, read_config

PACKED_KEY = "memos_adapter"
"""Key of a packed file's metadata, with the configuration."""
# Bounds of a usable update.  Entries of the base weights of a linear layer are 0.01 to 0.1 (root mean
# square), those of a trained update 0.0001 to 0.01; of its factors, at most about 1.
_MOST_UPDATE_RMS = 1.0
_MOST_ENTRY = (
    100.0  # of A, and of B with its scaling: A·x stays finite in float16 for |x| up to 100
)
_MOST_SCALING = 10_000.0
_NAME = re.compile(r"^base_model\.model\.([A-Za-z0-9_.]+)\.lora_([AB])\.weight$")
_TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"} | {
    f"{kind}{bits}": f"{name}{bits}"
    for kind, name in (("I", "int"), ("U", "uint"))
    for bits in (8, 16, 32, 64)
}
"""Types of safetensors by torch's names."""
USABLE = ("float32", "float16", "bfloat16")

Shapes = Mapping[str, tuple[int, int]]
"""Linear layer of the base model → (out, in)."""
Matrix = npt.NDArray[np.float64]


class Shaped(Protocol):
    """An adapter, as far as it has to fit a model."""

    @property
    def config(self) -> AdapterConfig: ...

    def modules(self) -> dict[str, tuple[int, int]]:
        """Module → (out, in)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Weights:
    """One tensor of an adapter."""

    dtype: str
    """torch's name, without `torch.`."""
    shape: tuple[int, ...]
    values: Callable[[], Matrix]
    """Its numbers, of its shape; called where the type is one of `USABLE`."""


@dataclasses.dataclass(frozen=True)
class CheckedAdapter:
    """An upload that has passed the checks, as the file that is stored."""

    config: AdapterConfig
    shapes: dict[str, tuple[int, int]]
    file: bytes

    def modules(self) -> dict[str, tuple[int, int]]:
        return dict(self.shapes)


def parts_of_upload(content: Mapping[str, Any], limit: int) -> tuple[Any, Callable[[], bytes]]:
    """(`adapter_config`, what decodes `adapter_model`) of a payload's `content`; neither is parsed.

    Args:
        content: `adapter_config` (an object) and `adapter_model` (base64).
        limit: largest size of the weights, bytes.

    Raises:
        TooLarge: the weights exceed the limit.
        Unprocessable: a part is missing; when it is decoded: it is no base64.
    """
    if set(content) != {"adapter_config", "adapter_model"}:
        raise Unprocessable(
            "an adapter's `content` must be `adapter_config` (the object in PEFT's "
            "adapter_config.json) and `adapter_model` (PEFT's adapter_model.safetensors, base64)",
            param="payload.content",
        )
    encoded = content["adapter_model"]
    if not isinstance(encoded, str):
        raise Unprocessable("`adapter_model` must be a string: base64 of a safetensors file")
    if len(encoded) * 3 // 4 > limit:
        raise TooLarge(
            f"the adapter exceeds {limit} bytes (limits.adapter_bytes)",
            param="payload.content.adapter_model",
        )

    def decoded() -> bytes:
        try:
            return base64.b64decode(encoded, validate=True)
        except ValueError as error:
            raise Unprocessable(f"`adapter_model` is not base64: {error}") from error

    return content["adapter_config"], decoded


def checked_file(raw_config: Any, data: bytes) -> CheckedAdapter:
    """Parse and check an upload, and write its file anew; equal adapters give equal bytes.

    Args:
        raw_config: PEFT's adapter_config.json, parsed as JSON.
        data: PEFT's adapter_model.safetensors.

    Raises:
        Unprocessable: the message names what is wrong.
    """
    config = read_config(raw_config)
    try:
        found = dict(safetensors.deserialize(data))  # type: ignore[no-untyped-call]
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise Unprocessable(f"`adapter_model` is not a safetensors file: {error}") from error
    check_weights(config, {name: _weights(tensor) for name, tensor in found.items()})
    return CheckedAdapter(
        config,
        modules_of({name: tuple(tensor["shape"]) for name, tensor in found.items()}),
        _packed(config, found),
    )


def check_weights(config: AdapterConfig, tensors: Mapping[str, Weights]) -> None:
    """Raises Unprocessable."""
    if not tensors:
        raise Unprocessable("the adapter holds no weights")
    sides: dict[str, set[str]] = {}
    types = {tensor.dtype for tensor in tensors.values()}
    if len(types) != 1 or not types <= set(USABLE):
        shown = ", ".join(f"torch.{name}" for name in sorted(types))
        raise Unprocessable(
            f"the weights are of type {shown}; use one of float32, float16, bfloat16"
        )
    for name, tensor in tensors.items():
        module, side = parts_of_name(name)
        sides.setdefault(module, set()).add(side)
        if not any(module == t or module.endswith(f".{t}") for t in config.target_modules):
            raise Unprocessable(f"{name} is not among `target_modules`")
        if len(tensor.shape) != 2 or tensor.shape[0 if side == "A" else 1] != config.r:
            raise Unprocessable(f"{name} has shape {tensor.shape}, which is not of rank {config.r}")
        if not bool(np.isfinite(tensor.values()).all()):
            raise Unprocessable(f"{name} holds a number that is not finite")
        if 0 in tensor.shape:
            raise Unprocessable(f"{name} is empty")
    for module, found in sides.items():
        if found != {"A", "B"}:
            raise Unprocessable(f"{module} has only one of its two matrices")
    if not config.scaling <= _MOST_SCALING:
        raise Unprocessable(
            f"the scaling (alpha by rank) is {config.scaling:g}; at most {_MOST_SCALING:g}"
        )
    for module in sides:
        a = tensors[f"base_model.model.{module}.lora_A.weight"].values()  # (rank, in)
        b = tensors[f"base_model.model.{module}.lora_B.weight"].values()  # (out, rank)
        _check_size(module, a, b * config.scaling)


def check_fits(adapter: Shaped, shapes: Shapes, max_rank: int | None) -> None:
    """Check that an adapter fits the served model.

    Args:
        max_rank: `--max-lora-rank`; None: the server attaches no adapters.

    Raises:
        Unprocessable: its rank, a module or a shape does not fit.
    """
    if max_rank is not None and adapter.config.r > max_rank:
        raise Unprocessable(
            f"the adapter has rank {adapter.config.r}; this server was started with "
            f"--max-lora-rank {max_rank}"
        )
    for module, (out, wide) in adapter.modules().items():
        if module not in shapes:
            raise Unprocessable(f"the served model has no linear layer {module}")
        if shapes[module] != (out, wide):
            raise Unprocessable(
                f"{module} is {shapes[module]} in the served model and {(out, wide)} in the adapter: the "
                "adapter is for another model"
            )


def modules_of(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, int]]:
    """Module → (out, in), of the shapes of its two matrices."""
    found: dict[str, list[int]] = {}
    for name, shape in shapes.items():
        module, side = parts_of_name(name)
        size = found.setdefault(module, [0, 0])
        size[side == "A"] = shape[0 if side == "B" else 1]
    return {module: (out, wide) for module, (out, wide) in found.items()}


def parts_of_name(name: str) -> tuple[str, str]:
    """(module, side) of a LoRA matrix. Raises Unprocessable."""
    match = _NAME.match(name)
    if match is None:
        raise Unprocessable(f"{name!r} is not a name that PEFT gives to a LoRA matrix")
    return match[1], match[2]


def metadata_of(config: AdapterConfig) -> dict[str, str]:
    """Metadata of a packed file."""
    return {PACKED_KEY: json.dumps(config.model_dump(mode="json"), sort_keys=True)}


def _check_size(module: str, a: Matrix, b: Matrix) -> None:
    """Refuse an update that no training gives, and that is not finite in the engine's arithmetic.

    Args:
        a: (rank, in)
        b: (out, rank), with the scaling
    """
    largest = max(float(np.abs(a).max()), float(np.abs(b).max()))
    if not largest <= _MOST_ENTRY:
        raise Unprocessable(
            f"{module} holds a weight of {largest:g} (B with its scaling); at most {_MOST_ENTRY:g}"
        )
    # ‖B·A‖² = trace(BᵀB · AAᵀ): of rank × rank, not of out × in.
    square = float(((b.T @ b) * (a @ a.T)).sum())
    rms = math.sqrt(max(square, 0.0) / (b.shape[0] * a.shape[1]))
    if not rms <= _MOST_UPDATE_RMS:
        raise Unprocessable(
            f"the update of {module} has a root mean square of {rms:g}; at most {_MOST_UPDATE_RMS:g}, "
            "which is ten times that of base weights"
        )


def _weights(tensor: Mapping[str, Any]) -> Weights:
    shape = tuple(int(size) for size in tensor["shape"])
    kind, data = str(tensor["dtype"]), tensor["data"]

    def values() -> Matrix:
        if kind == "BF16":  # the upper half of a float32
            found = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            found = np.frombuffer(data, "<f4" if kind == "F32" else "<f2")
        return found.reshape(shape).astype(np.float64)

    return Weights(_TYPES.get(kind, kind), shape, values)


def _packed(config: AdapterConfig, tensors: Mapping[str, Mapping[str, Any]]) -> bytes:
    """The file that `packed.Adapter.pack` makes of the same adapter: tensors of one type, by name."""
    header: dict[str, Any] = {"__metadata__": metadata_of(config)}
    position, parts = 0, []
    for name, tensor in sorted(tensors.items()):
        end = position + len(tensor["data"])
        header[name] = {
            "dtype": tensor["dtype"],
            "shape": list(tensor["shape"]),
            "data_offsets": [position, end],
        }
        position = end
        parts.append(tensor["data"])
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])
