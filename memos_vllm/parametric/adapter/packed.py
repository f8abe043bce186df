"""An adapter as one safetensors file with its configuration: equal adapters give equal bytes.

The digest of the file names the adapter in the engine (`cube@<sha256>`), so weights, rank and scaling
cannot change under a name that KV was computed with.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from safetensors.torch import load as parse_safetensors

from memos_vllm import strict_json
from memos_vllm.cube.ids import Sha256
from memos_vllm.errors import BadRequest, DamagedPayload, TooLarge, Unprocessable
from memos_vllm.parametric.adapter.peft_config import AdapterConfig, read_config

_KEY = "memos_adapter"
_HEADER_BYTES, _CONFIG_BYTES = 8 << 20, 1 << 20
# Bounds of a usable update.  Entries of the base weights of a linear layer are 0.01 to 0.1 (root mean
# square), those of a trained update 0.0001 to 0.01; of its factors, at most about 1.
_MOST_UPDATE_RMS = 1.0
_MOST_ENTRY = (
    100.0  # of A, and of B with its scaling: A·x stays finite in float16 for |x| up to 100
)
_MOST_SCALING = 10_000.0
_NAME = re.compile(r"^base_model\.model\.([A-Za-z0-9_.]+)\.lora_([AB])\.weight$")
_DTYPES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}

Shapes = Mapping[str, tuple[int, int]]
"""Linear layer of the base model → (out, in)."""


@dataclasses.dataclass(frozen=True)
class Adapter:
    """A validated adapter: a pair of matrices per module that it changes."""

    config: AdapterConfig
    tensors: dict[str, torch.Tensor]
    """`base_model.model.<module>.lora_A.weight` (rank, in), `….lora_B.weight` (out, rank)."""

    def modules(self) -> dict[str, tuple[int, int]]:
        """Module → (out, in)."""
        found: dict[str, list[int]] = {}
        for name, tensor in self.tensors.items():
            module, side = _parts(name)
            size = found.setdefault(module, [0, 0])
            size[side == "A"] = tensor.shape[0 if side == "B" else 1]
        return {module: (out, wide) for module, (out, wide) in found.items()}

    def summary(self, digest: Sha256, size: int) -> dict[str, Any]:
        """The fields that the Memory API shows."""
        return {
            "adapter": digest,
            "bytes": size,
            "rank": self.config.r,
            "alpha": self.config.lora_alpha,
            "rslora": self.config.use_rslora,
            "target_modules": list(self.config.target_modules),
            "modules": len(self.tensors) // 2,
            "dtype": _DTYPES[next(iter(self.tensors.values())).dtype],
        }

    def pack(self) -> bytes:
        """Serialize to a file; equal adapters give equal bytes."""
        config = json.dumps(self.config.model_dump(mode="json"), sort_keys=True)
        return safetensors.torch.save(dict(sorted(self.tensors.items())), {_KEY: config})


def read_upload(content: Mapping[str, Any], limit: int) -> Adapter:
    """Parse and validate the `content` of a payload.

    Args:
        content: `adapter_config` (an object) and `adapter_model` (base64).
        limit: largest size of the weights, bytes.

    Raises:
        TooLarge: the weights exceed the limit.
        Unprocessable: the adapter is invalid; the message names the field.
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
    try:
        weights = base64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise Unprocessable(f"`adapter_model` is not base64: {error}") from error
    return check(read_config(content["adapter_config"]), _load(weights))


def upload_of_folder(folder: Path) -> dict[str, Any]:
    """A folder of PEFT's `save_pretrained` as a payload's `content`. Raises BadRequest."""
    try:
        config = _folder_config(folder)
        weights = (folder / "adapter_model.safetensors").read_bytes()
    except FileNotFoundError as error:
        raise BadRequest(
            f"{folder} is not an adapter: {Path(str(error.filename)).name} is missing (PEFT's "
            "save_pretrained writes adapter_config.json and adapter_model.safetensors; pickle files "
            "are not read)"
        ) from error
    except OSError as error:
        raise BadRequest(f"{folder} cannot be read: {error}") from error
    return {"adapter_config": config, "adapter_model": base64.b64encode(weights).decode()}


def upload_of_file(data: bytes) -> dict[str, Any]:
    """A packed file as a payload's `content`. Raises DamagedPayload."""
    config = unpack(data).config.model_dump(mode="json")
    return {"adapter_config": config, "adapter_model": base64.b64encode(data).decode()}


def _folder_config(folder: Path) -> Any:
    with (folder / "adapter_config.json").open("rb") as file:
        data = file.read(_CONFIG_BYTES + 1)
    return strict_json.parse(data, what="adapter_config.json", most_bytes=_CONFIG_BYTES)


def load_folder(folder: Path) -> Adapter:
    """Load an adapter from a folder in PEFT's format. Raises Unprocessable, OSError."""
    config = read_config(_folder_config(folder))
    return check(config, _load((folder / "adapter_model.safetensors").read_bytes()))


def unpack(data: bytes) -> Adapter:
    """Load an adapter from a packed file. Raises DamagedPayload."""
    try:
        length = int.from_bytes(data[:8], "little")
        header = strict_json.parse(data[8 : 8 + length], what="header", most_bytes=_HEADER_BYTES)
        config = strict_json.parse(header["__metadata__"][_KEY], what="configuration")
        return check(read_config(config), _load(data))
    except (ValueError, KeyError, TypeError, BadRequest, TooLarge, Unprocessable) as error:
        raise DamagedPayload(f"the payload is not a packed adapter: {error}") from error


def check(config: AdapterConfig, tensors: dict[str, torch.Tensor]) -> Adapter:
    """Validate names, pairs, shapes, types and numbers. Raises Unprocessable."""
    if not tensors:
        raise Unprocessable("the adapter holds no weights")
    sides: dict[str, set[str]] = {}
    types = {tensor.dtype for tensor in tensors.values()}
    if len(types) != 1 or not types <= set(_DTYPES):
        raise Unprocessable(
            f"the weights are of type {', '.join(sorted(map(str, types)))}; use one of float32, "
            "float16, bfloat16"
        )
    for name, tensor in tensors.items():
        module, side = _parts(name)
        sides.setdefault(module, set()).add(side)
        if not any(module == t or module.endswith(f".{t}") for t in config.target_modules):
            raise Unprocessable(f"{name} is not among `target_modules`")
        if tensor.dim() != 2 or tensor.shape[0 if side == "A" else 1] != config.r:
            shape = tuple(tensor.shape)
            raise Unprocessable(f"{name} has shape {shape}, which is not of rank {config.r}")
        if not bool(torch.isfinite(tensor).all()):
            raise Unprocessable(f"{name} holds a number that is not finite")
        if tensor.numel() == 0:
            raise Unprocessable(f"{name} is empty")
    for module, found in sides.items():
        if found != {"A", "B"}:
            raise Unprocessable(f"{module} has only one of its two matrices")
    if not config.scaling <= _MOST_SCALING:
        raise Unprocessable(
            f"the scaling (alpha by rank) is {config.scaling:g}; at most {_MOST_SCALING:g}"
        )
    for module in sides:
        _check_size(module, config.scaling, tensors)
    return Adapter(config, tensors)


def _check_size(module: str, scaling: float, tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse an update that no training gives, and that is not finite in the engine's arithmetic."""
    a = tensors[f"base_model.model.{module}.lora_A.weight"].double()  # (rank, in)
    b = tensors[f"base_model.model.{module}.lora_B.weight"].double() * scaling  # (out, rank)
    largest = max(float(a.abs().max()), float(b.abs().max()))
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


def check_fits(adapter: Adapter, shapes: Shapes, max_rank: int | None) -> None:
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


def _parts(name: str) -> tuple[str, str]:
    match = _NAME.match(name)
    if match is None:
        raise Unprocessable(f"{name!r} is not a name that PEFT gives to a LoRA matrix")
    return match[1], match[2]


def _load(data: bytes) -> dict[str, torch.Tensor]:
    try:
        return parse_safetensors(data)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise Unprocessable(f"`adapter_model` is not a safetensors file: {error}") from error
