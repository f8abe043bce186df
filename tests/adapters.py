"""Random adapters of any size for tests, in PEFT's format."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

import safetensors.torch
import torch

from memos_vllm.parametric.adapter.checks import checked_file, parts_of_upload
from memos_vllm.parametric.adapter.packed import Adapter, unpack

TARGETS = ("q_proj", "v_proj")


def config_of(rank: int = 4, targets: Iterable[str] = TARGETS, **more: Any) -> dict[str, Any]:
    """`adapter_config.json` with all fields that PEFT writes."""
    return {
        "alpha_pattern": {},
        "auto_mapping": None,
        "base_model_name_or_path": "/another/users/model",
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.05,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": {},
        "target_modules": list(targets),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
        **more,
    }


def tensors_of(
    shapes: dict[str, tuple[int, int]], rank: int = 4, seed: int = 0, size: float = 0.05
) -> dict[str, torch.Tensor]:
    """Random LoRA matrices.

    Args:
        shapes: module → (out, in).
    """
    dice = torch.Generator().manual_seed(seed)
    made = {}
    for module, (out, wide) in shapes.items():
        name = f"base_model.model.{module}"
        made[f"{name}.lora_A.weight"] = size * torch.randn(rank, wide, generator=dice)
        made[f"{name}.lora_B.weight"] = size * torch.randn(out, rank, generator=dice)
    return made


def content_of(tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> dict[str, Any]:
    weights = safetensors.torch.save(tensors)
    return {"adapter_config": config, "adapter_model": base64.b64encode(weights).decode()}


def read_upload(content: dict[str, Any], limit: int) -> Adapter:
    """Check an upload in this process, as the checking process does, and load its file."""
    config, weights = parts_of_upload(content, limit)
    return unpack(checked_file(config, weights()).file)


def small(seed: int = 0, **config: Any) -> dict[str, Any]:
    """The `content` of a small adapter that fits no real model."""
    shapes = {f"model.layers.{i}.self_attn.{t}": (8, 16) for i in range(2) for t in TARGETS}
    return content_of(tensors_of(shapes, seed=seed), config_of(**config))
