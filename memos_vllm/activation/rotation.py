"""Move keys to another position: the rotation of RoPE by the distance, applied once more.

A key at position p is R(p)·k, and R(q)·k = R(q - p)·R(p)·k.  Values carry no position.  Models with
other keys are refused by name: learned or no positions, windows, frequencies that
depend on the length of the prompt.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch

ARCHITECTURES = frozenset(
    {
        "LlamaForCausalLM",
        "MistralForCausalLM",
        "MixtralForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen2MoeForCausalLM",
        "Qwen3ForCausalLM",
        "Qwen3MoeForCausalLM",
    }
)
"""Rotate halves of a head against each other (neox) in every layer."""
ROPE_TYPES = frozenset({"default", "linear", "llama3", "yarn"})


@dataclasses.dataclass(frozen=True)
class Rotation:
    frequencies: torch.Tensor
    """(rotated dims / 2,) radians per token, float64."""

    def by(self, shift: int) -> Callable[[torch.Tensor], torch.Tensor]:
        """A function that moves keys (tokens, heads, head_dim) by `shift` tokens.

        Uses vLLM's kernel where it is loaded (angles in the keys' type, as in the engine; one pass over
        the keys), else torch (angles in float32).
        """
        angle = self.frequencies * shift
        cos, sin = angle.cos().float(), angle.sin().float()

        @functools.lru_cache(maxsize=4)
        def prepared(
            dtype: torch.dtype, device: torch.device, tokens: int
        ) -> tuple[Callable[..., None] | None, torch.Tensor, torch.Tensor]:
            table = torch.cat((cos, sin)).view(1, -1).to(device, dtype)
            return _kernel(device), torch.zeros(tokens, dtype=torch.int64, device=device), table

        def move(keys: torch.Tensor) -> torch.Tensor:
            kernel, positions, table = prepared(keys.dtype, keys.device, len(keys))
            if kernel is None:
                return _rotated(keys, cos.to(keys.device), sin.to(keys.device))
            moved = keys.clone(memory_format=torch.contiguous_format)
            kernel(positions, moved.view(len(keys), -1), None, keys.shape[-1], table, True)
            return moved

        return move


def _kernel(device: torch.device) -> Callable[..., None] | None:
    """vLLM's in-place rotation for tensors on this device; None: it is not loaded."""
    kernel = getattr(torch.ops._C, "rotary_embedding", None)
    if kernel is None:
        return None
    name = kernel.default.name()  # a build of vLLM has the kernel for one kind of device
    known = torch._C._dispatch_has_kernel_for_dispatch_key(name, device.type.upper())
    return kernel if known else None


def _rotated(keys: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    half = len(cos)
    first, second = keys[..., :half].float(), keys[..., half : 2 * half].float()
    moved = torch.empty_like(keys)
    moved[..., :half] = first * cos - second * sin
    moved[..., half : 2 * half] = second * cos + first * sin
    moved[..., 2 * half :] = keys[..., 2 * half :]
    return moved


def rotation_problem(config: Any, text_config: Any) -> str | None:
    """Why keys of a model cannot be moved; None: they can.

    Args:
        config: the model's, as transformers has it; names its architecture.
        text_config: of its language model; the same for a model of text.
    """
    named = set(getattr(config, "architectures", None) or ())
    if not named & ARCHITECTURES:
        return f"keys of {', '.join(sorted(named)) or 'this model'} are not known to rotate by position"
    kind = _parameters(text_config).get("rope_type", "default")
    if kind not in ROPE_TYPES:
        return f"its positions are scaled by {kind!r}, which depends on more than the position"
    return None


def rotation(text_config: Any, head_size: int) -> Rotation:
    """The rotation of a model whose keys can be moved (`rotation_problem`)."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    parameters = _parameters(text_config)
    kind = parameters.get("rope_type", "default")
    if kind != "default":
        frequencies, _ = ROPE_INIT_FUNCTIONS[kind](text_config, torch.device("cpu"))
        return Rotation(frequencies.double())
    size = int(head_size * parameters.get("partial_rotary_factor", 1.0))
    exponents = torch.arange(0, size, 2, dtype=torch.float64) / size
    return Rotation(1.0 / float(parameters["rope_theta"]) ** exponents)


def _parameters(shape: Any) -> dict[str, Any]:
    given = getattr(shape, "rope_parameters", None)
    if given is None:
        given = dict(getattr(shape, "rope_scaling", None) or {})
    parameters = dict(given)
    parameters.setdefault("rope_type", parameters.pop("type", "default"))
    parameters.setdefault("rope_theta", getattr(shape, "rope_theta", 10_000.0))
    return parameters
