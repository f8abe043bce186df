"""Queries, keys and values of a model's attention layers, taken while it computes."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import torch

_NAME = "memos_watch"
_MOST_QUERIES = 512


@dataclasses.dataclass
class Watched:
    """What one layer asked, in each forward pass."""

    queries: list[torch.Tensor] = dataclasses.field(default_factory=list)
    """Each (queries, heads, head_dim), rotated, times the model's scale."""
    shares: list[torch.Tensor] = dataclasses.field(default_factory=list)
    """Each (queries, heads): share of the attention on the watched keys."""


@contextlib.contextmanager
def watching(model: Any, start: int, end: int) -> Iterator[dict[int, Watched]]:
    """Watch all attention layers of a model in forward passes of one row.

    Of a long pass, the queries of `_MOST_QUERIES` tokens are kept, evenly spaced.

    Args:
        start: of the watched keys, counted with those of the cache.
        end: behind them.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    layers: dict[int, Watched] = {}
    inner: Any = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def attend(
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: Any,
        **kw: Any,
    ) -> Any:
        scale = kw.get("scaling") or query.shape[-1] ** -0.5
        count = query.shape[2]
        most = min(count, _MOST_QUERIES)
        chosen = torch.linspace(0, count - 1, most, device=query.device).long()
        kept = query[0, :, chosen].float() * scale  # (heads, queries, d)
        group = query.shape[1] // key.shape[1]
        keys = key[0].float().repeat_interleave(group, 0)  # (heads, all, d)
        logits = kept @ keys.transpose(1, 2)
        places = torch.arange(key.shape[2], device=key.device)
        later = places > (chosen + key.shape[2] - count)[:, None]
        share = logits.masked_fill(later, -torch.inf).softmax(-1)[..., start:end].sum(-1)
        watched = layers.setdefault(module.layer_idx, Watched())
        watched.queries.append(kept.transpose(0, 1).contiguous())
        watched.shares.append(share.transpose(0, 1).contiguous())
        return inner(module, query, key, value, mask, **kw)

    AttentionInterface.register(_NAME, attend)
    AttentionMaskInterface.register(_NAME, sdpa_mask)
    before = model.config._attn_implementation
    model.set_attn_implementation(_NAME)
    try:
        yield layers
    finally:
        model.set_attn_implementation(before)
