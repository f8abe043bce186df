"""Rotation of the served model's keys (`activation.rotation`), from vLLM's configuration."""

from __future__ import annotations

from typing import Any

from memos_vllm.activation import rotation
from memos_vllm.activation.rotation import Rotation


def rotation_problem(vllm_config: Any) -> str | None:
    """Why keys of this model cannot be moved; None: they can."""
    model = vllm_config.model_config
    return rotation.rotation_problem(model.hf_config, model.hf_text_config)


def rotation_of(vllm_config: Any) -> Rotation | None:
    """The rotation of the served model; None where keys cannot be moved."""
    if rotation_problem(vllm_config) is not None:
        return None
    model = vllm_config.model_config
    return rotation.rotation(model.hf_text_config, model.get_head_size())
