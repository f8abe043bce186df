"""Merge several adapters into one, for requests that name more than one.

cat        their exact sum: ranks add up
svd        the best approximation of the sum at a lower rank (QR of the factors, then a small SVD)
ties       TIES-Merging (Yadav et al. 2023, arXiv 2306.01708) of the full updates, which elects a sign
           per parameter, then the best approximation at the rank
dare_ties  TIES after DARE (Yu et al. 2023, arXiv 2311.03099), which drops updates at random
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from memos_vllm.parametric.adapter.packed import Adapter
from memos_vllm.parametric.adapter.peft_config import AdapterConfig

Method = Literal["auto", "cat", "svd", "ties", "dare_ties"]
_DENSITY = 0.5
_SEED = 0

Factors = tuple[torch.Tensor, torch.Tensor]
"""B (out, rank) and A (rank, in), in float32; B includes the scaling."""


def merge(adapters: Sequence[Adapter], method: Method, max_rank: int) -> Adapter:
    """Merge adapters; deterministic.

    Args:
        method: `auto` is `cat` if the sum of the ranks is at most `max_rank`, else `svd`.
    """
    rank = min(sum(adapter.config.r for adapter in adapters), max_rank)
    modules = sorted({module for adapter in adapters for module in adapter.modules()})
    tensors: dict[str, torch.Tensor] = {}
    for module in modules:
        factors = [_factors(adapter, module) for adapter in adapters if module in adapter.modules()]
        b, a = _padded(_merge_factors(factors, method, rank), rank)
        dtype = next(iter(adapters[0].tensors.values())).dtype
        tensors[f"base_model.model.{module}.lora_A.weight"] = a.to(dtype).contiguous()
        tensors[f"base_model.model.{module}.lora_B.weight"] = b.to(dtype).contiguous()
    targets = sorted({target for adapter in adapters for target in adapter.config.target_modules})
    config = AdapterConfig(
        peft_type="LORA", r=rank, lora_alpha=float(rank), target_modules=tuple(targets)
    )
    return Adapter(config, tensors)


def _merge_factors(factors: Sequence[Factors], method: Method, rank: int) -> Factors:
    if method in ("ties", "dare_ties"):
        return _merge_ties([b @ a for b, a in factors], method, rank)
    b = torch.cat([b for b, _ in factors], dim=1)
    a = torch.cat([a for _, a in factors], dim=0)
    if b.shape[1] <= rank and method != "svd":
        return b, a
    left, inner = torch.linalg.qr(b)
    right, outer = torch.linalg.qr(a.T)
    u, s, v = torch.linalg.svd(inner @ outer.T)
    size = min(rank, len(s))
    return left @ (u[:, :size] * s[:size]), v[:size] @ right.T


def _merge_ties(updates: list[torch.Tensor], method: Method, rank: int) -> Factors:
    from peft.utils.merge_utils import dare_ties, ties

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        combine = ties if method == "ties" else dare_ties
        update: torch.Tensor = combine(updates, torch.ones(len(updates)), _DENSITY)
        u, s, v = torch.svd_lowrank(update, q=min(rank + 8, *update.shape), niter=4)
    return u[:, :rank] * s[:rank], v[:, :rank].T


def _factors(adapter: Adapter, module: str) -> Factors:
    name = f"base_model.model.{module}"
    b = adapter.tensors[f"{name}.lora_B.weight"].float() * adapter.config.scaling
    return b, adapter.tensors[f"{name}.lora_A.weight"].float()


def _padded(factors: Factors, rank: int) -> Factors:
    """Pad the factors with zeros to the rank of the adapter."""
    b, a = factors
    missing = rank - b.shape[1]
    return torch.nn.functional.pad(b, (0, missing)), torch.nn.functional.pad(a, (0, 0, 0, missing))
