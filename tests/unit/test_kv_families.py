"""Keys of whole models, moved: each family that near KV is offered for, tiny and with random weights.

A prompt that starts later has the same states in every layer, for only distances count; so its keys
must be those of the same prompt from the start, moved, and its values the same.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)

from memos_vllm.activation.rotation import ARCHITECTURES
from memos_vllm.engine.kv.rope import rotation_of
from tests.unit.test_kv_rope import ROPES, served

TOKENS, SHIFT, LAYERS = 48, 333, 3
SIZES = {
    "vocab_size": 256,
    "hidden_size": 128,
    "intermediate_size": 128,
    "moe_intermediate_size": 64,
    "shared_expert_intermediate_size": 64,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 4096,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
}
FAMILIES: dict[str, type[PretrainedConfig]] = {
    "LlamaForCausalLM": LlamaConfig,
    "MistralForCausalLM": MistralConfig,
    "MixtralForCausalLM": MixtralConfig,
    "Qwen2ForCausalLM": Qwen2Config,
    "Qwen2MoeForCausalLM": Qwen2MoeConfig,
    "Qwen3ForCausalLM": Qwen3Config,
    "Qwen3MoeForCausalLM": Qwen3MoeConfig,
}


def keys_and_values(model: Any, start: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Each layer's, (tokens, heads, head_dim), of one prompt that starts at `start`."""
    tokens = torch.arange(TOKENS)[None] * 5 % 256
    with torch.no_grad():
        places = torch.arange(start, start + TOKENS)[None]
        cache = model(tokens, position_ids=places, use_cache=True).past_key_values
    return [
        (layer.keys[0].transpose(0, 1), layer.values[0].transpose(0, 1)) for layer in cache.layers
    ]


def test_every_family_that_is_offered_is_tested():
    assert set(FAMILIES) == ARCHITECTURES


@pytest.mark.parametrize("rope", ["default", "linear", "llama3", "yarn"])
@pytest.mark.parametrize("family", FAMILIES)
def test_keys_of_a_prompt_that_starts_later_are_its_keys_moved(family, rope):
    sizes = dict(SIZES)
    if family.startswith("Qwen2"):
        sizes["hidden_size"] = sizes["head_dim"] * sizes["num_attention_heads"]
    config = FAMILIES[family](**sizes, rope_parameters=dict(ROPES[rope]), architectures=[family])
    # Longer than the prompt: some of these classes cannot be built without one.
    config.sliding_window = 4096
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    rotation = rotation_of(served(config))
    assert rotation is not None
    move = rotation.by(SHIFT)
    before, after = keys_and_values(model, 0), keys_and_values(model, SHIFT)
    assert len(before) == LAYERS
    for (k, v), (later_k, later_v) in zip(before, after, strict=True):
        scale = later_k.abs().max()
        assert (move(k) - later_k).abs().max() < 1e-3 * scale
        assert (v - later_v).abs().max() < 1e-3 * later_v.abs().max()
        assert (k - later_k).abs().max() > 1e-2 * scale, "keys depend on their position"
