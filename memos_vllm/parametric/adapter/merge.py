"""Several adapters as one: what the engine attaches to a request that names more than one.

cat        their sum, exactly: ranks add up
svd        the nearest of a lower rank to their sum (by QR of the factors, then a small SVD)
ties       TIES-Merging (Yadav et al. 2023, arXiv 2306.01708) of the full updates, then the nearest of
           the rank; conflicting signs are voted on
dare_ties  the same after DARE (Yu et al. 2023, arXiv 2311.03099), which drops updates at random
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
"""(out, rank), (rank, in), in float32; the scaling is in the first."""


def merge(adapters: Sequence[Adapter], method: Method, max_rank: int) -> Adapter:
    """One adapter in place of several; the same ones give the same.

    Args:
        method: `auto` is `cat` where the sum of the ranks fits `max_rank`, else `svd`.
    """
    rank = min(sum(adapter.config.r for adapter in adapters), max_rank)
    modules = sorted({module for adapter in adapters for module in adapter.modules()})
    tensors: dict[str, torch.Tensor] = {}
    for module in modules:
        found = [_factors(adapter, module) for adapter in adapters if module in adapter.modules()]
        b, a = _padded(_merged(found, method, rank), rank)
        dtype = next(iter(adapters[0].tensors.values())).dtype
        tensors[f"base_model.model.{module}.lora_A.weight"] = a.to(dtype).contiguous()
        tensors[f"base_model.model.{module}.lora_B.weight"] = b.to(dtype).contiguous()
    targets = sorted({target for adapter in adapters for target in adapter.config.target_modules})
    config = AdapterConfig(
        peft_type="LORA", r=rank, lora_alpha=float(rank), target_modules=tuple(targets)
    )
    return Adapter(config, tensors)


def _merged(found: Sequence[Factors], method: Method, rank: int) -> Factors:
    if method in ("ties", "dare_ties"):
        return _voted([b @ a for b, a in found], method, rank)
    b, a = torch.cat([b for b, _ in found], dim=1), torch.cat([a for _, a in found], dim=0)
    if b.shape[1] <= rank and method != "svd":
        return b, a
    left, inner = torch.linalg.qr(b)
    right, outer = torch.linalg.qr(a.T)
    u, s, v = torch.linalg.svd(inner @ outer.T)
    kept = min(rank, len(s))
    return left @ (u[:, :kept] * s[:kept]), v[:kept] @ right.T


def _voted(updates: list[torch.Tensor], method: Method, rank: int) -> Factors:
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
    """To the rank that the whole adapter has: zeros add nothing."""
    b, a = factors
    missing = rank - b.shape[1]
    return torch.nn.functional.pad(b, (0, missing)), torch.nn.functional.pad(a, (0, 0, 0, missing))
