"""An adapter as one safetensors file with its configuration: equal adapters give equal bytes.

The digest of the file names the adapter in the engine (`cube@<sha256>`), so weights, rank and scaling
cannot change under a name that KV was computed with.
"""

from __future__ import annotations

import base64
import dataclasses
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from safetensors.torch import load as parse_safetensors

from memos_vllm import strict_json
from memos_vllm.cube.ids import Sha256
from memos_vllm.errors import BadRequest, DamagedPayload, TooLarge, Unprocessable
from memos_vllm.parametric.adapter.checks import (
    PACKED_KEY,
    Matrix,
    Weights,
    check_weights,
    metadata_of,
    modules_of,
)
from memos_vllm.parametric.adapter.peft_config import AdapterConfig, read_config

_HEADER_BYTES, _CONFIG_BYTES = 8 << 20, 1 << 20
_DTYPES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}


@dataclasses.dataclass(frozen=True)
class Adapter:
    """A validated adapter: a pair of matrices per module that it changes."""

    config: AdapterConfig
    tensors: dict[str, torch.Tensor]
    """`base_model.model.<module>.lora_A.weight` (rank, in), `….lora_B.weight` (out, rank)."""

    def modules(self) -> dict[str, tuple[int, int]]:
        """Module → (out, in)."""
        return modules_of({name: tuple(each.shape) for name, each in self.tensors.items()})

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
        return safetensors.torch.save(dict(sorted(self.tensors.items())), metadata_of(self.config))


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


def upload_of_import(data: bytes) -> dict[str, Any]:
    """A packed file from outside as a payload's `content`. Its tensors are not read: the checking process
    does. Raises Unprocessable."""
    try:
        config = _packed_config(data)
    except (ValueError, KeyError, TypeError, BadRequest, TooLarge) as error:
        raise Unprocessable(f"it is no packed adapter: {error}") from error
    return {"adapter_config": config, "adapter_model": base64.b64encode(data).decode()}


def _packed_config(data: bytes) -> Any:
    length = int.from_bytes(data[:8], "little")
    header = strict_json.parse(data[8 : 8 + length], what="header", most_bytes=_HEADER_BYTES)
    return strict_json.parse(header["__metadata__"][PACKED_KEY], what="configuration")


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
        return check(read_config(_packed_config(data)), _load(data))
    except (ValueError, KeyError, TypeError, BadRequest, TooLarge, Unprocessable) as error:
        raise DamagedPayload(f"the payload is not a packed adapter: {error}") from error


def check(config: AdapterConfig, tensors: dict[str, torch.Tensor]) -> Adapter:
    """Validate names, pairs, shapes, types and numbers. Raises Unprocessable."""
    check_weights(config, {name: _weights(tensor) for name, tensor in tensors.items()})
    return Adapter(config, tensors)


def _weights(tensor: torch.Tensor) -> Weights:
    def values() -> Matrix:
        found: Matrix = tensor.double().numpy()
        return found

    return Weights(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), values)


def _load(data: bytes) -> dict[str, torch.Tensor]:
    try:
        return parse_safetensors(data)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise Unprocessable(f"`adapter_model` is not a safetensors file: {error}") from error
