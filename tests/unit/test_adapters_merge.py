"""Merging several adapters into one."""

from __future__ import annotations

import pytest
import torch

from memos_vllm.parametric.adapter.merge import merge
from memos_vllm.parametric.adapter.packed import Adapter, check
from memos_vllm.parametric.adapter.peft_config import read_config
from tests.adapters import config_of, read_upload, small, tensors_of


def adapter(seed: int, rank: int = 4, modules=("q_proj",), **config) -> Adapter:
    shapes = {f"model.layers.0.self_attn.{m}": (24, 16) for m in modules}
    raw = config_of(rank, modules, **config)
    return check(read_config(raw), tensors_of(shapes, rank, seed, size=0.3))


def update(of: Adapter, module: str = "model.layers.0.self_attn.q_proj") -> torch.Tensor:
    name = f"base_model.model.{module}"
    a, b = of.tensors[f"{name}.lora_A.weight"], of.tensors[f"{name}.lora_B.weight"]
    return of.config.scaling * b @ a


def test_the_merge_is_the_exact_sum_where_the_ranks_fit():
    parts = [adapter(1), adapter(2, rank=2, lora_alpha=1), adapter(3, use_rslora=True)]
    one = merge(parts, "auto", 16)
    assert one.config.r == 10
    assert torch.allclose(update(one), sum(update(part) for part in parts), atol=1e-4)


@pytest.mark.parametrize("rank", [2, 6, 8])
def test_the_merge_is_the_best_low_rank_approximation_otherwise(rank):
    parts = [adapter(seed) for seed in range(3)]
    one, whole = merge(parts, "auto", rank), sum(update(part) for part in parts)
    assert one.config.r == rank
    singular = torch.linalg.svdvals(whole)
    missed = torch.linalg.matrix_norm(update(one) - whole)
    assert torch.allclose(missed, singular[rank:].square().sum().sqrt(), rtol=1e-3)


def test_modules_of_only_one_adapter_are_unchanged():
    parts = [adapter(1), adapter(2, modules=("q_proj", "v_proj"))]
    one = merge(parts, "cat", 16)
    v = "model.layers.0.self_attn.v_proj"
    assert torch.allclose(update(one, v), update(parts[1], v), atol=1e-4)
    assert set(one.config.target_modules) == {"q_proj", "v_proj"}


@pytest.mark.parametrize("method", ["cat", "svd", "ties", "dare_ties"])
def test_every_method_gives_a_valid_adapter_deterministically(method):
    parts = [read_upload(small(seed), 1 << 20) for seed in range(3)]
    one, again = (merge(parts, method, 8) for _ in range(2))
    assert one.config.r <= 8 or method == "cat"
    check(one.config, one.tensors)
    assert one.pack() == again.pack()
    whole = sum(update(part, "model.layers.0.self_attn.q_proj") for part in parts)
    same = torch.nn.functional.cosine_similarity(
        update(one, "model.layers.0.self_attn.q_proj").flatten(), whole.flatten(), dim=0
    )
    assert same > 0.4
