"""Attention matching: KV in fewer places that attention reads like the KV of the whole text.

What attention reads from a part of the context is two things: how much of its weight falls on the part (the
sum of the exponents, its mass) and the average of the part's values under these weights.  Where both are
the same for the queries that will come, so is everything that the layer computes.  For each layer and head,
without gradients:

1. the places are tokens whose weights over the reference queries span those of the others best;
2. each place gets a factor that makes the mass of the places that of the text (non-negative least squares);
   a factor is an additive term of the logit, and is folded into the key along the direction in which the
   reference queries agree, so that any attention kernel can read it;
3. the values are the least-squares solution for the averages of the text.

Sources: the decomposition and steps 1 to 3 with an explicit term per key: attention matching (arXiv
2602.16284).  Folding the term into the key is ours.
"""

from __future__ import annotations

import math

import torch

_ROUNDS = 200
_RIDGE = 1e-3
_LEAST_FACTOR = 1e-2
_MOST_QUERIES = 2048
_CANDIDATES, _LEAST_CANDIDATES = 3, 1024


def match(
    keys: torch.Tensor,
    values: torch.Tensor,
    queries: torch.Tensor,
    shares: torch.Tensor,
    places: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of `places` places for one layer.

    Args:
        keys: (tokens, kv_heads, head_dim) of the text, rotated.
        values: (tokens, kv_heads, head_dim).
        queries: (queries, heads, head_dim) of what is asked behind the text, rotated and scaled as the model
            scales its logits; heads of one KV head are adjacent.
        shares: (queries, heads) share of each query's attention that falls on the text.
        places: fewer than tokens.

    Returns:
        (keys, values), each (places, kv_heads, head_dim) float32; the keys in the rotation of the text.
    """
    heads = keys.shape[1]
    group = queries.shape[1] // heads
    k, v = (each.float().transpose(0, 1) for each in (keys, values))  # (kv_heads, tokens, d)
    q = _grouped(queries.float(), heads, group)  # (kv_heads, queries · group, d)
    weight = _grouped(shares.float()[..., None], heads, group)  # (kv_heads, queries · group, 1)
    if q.shape[1] > _MOST_QUERIES:
        chosen = torch.linspace(0, q.shape[1] - 1, _MOST_QUERIES, device=q.device).long()
        q, weight = q[:, chosen], weight[:, chosen]
    weight = (weight + 1e-3).sqrt()
    logits = q @ k.transpose(1, 2)  # (kv_heads, queries, tokens)
    mass = logits.logsumexp(-1, keepdim=True)
    attention = (logits - mass).exp()
    wanted = attention @ v
    best = _chosen(attention * weight, places).sort(-1).values  # (kv_heads, places)
    index = best[..., None].expand(-1, -1, k.shape[-1])
    picked, start = k.gather(1, index), v.gather(1, index)
    chosen_logits = logits.gather(2, best[:, None].expand(-1, logits.shape[1], -1))
    factors = _factors((chosen_logits - mass).exp() * weight, weight)
    picked = picked + factors.log()[..., None] * _common_direction(q, weight)[:, None]
    matched = _values(picked, start, q, weight, wanted)
    return picked.transpose(0, 1).contiguous(), matched.transpose(0, 1).contiguous()


def _grouped(each: torch.Tensor, heads: int, group: int) -> torch.Tensor:
    """(queries, heads · group, d) → (heads, queries · group, d)"""
    count, _, size = each.shape
    return (
        each.view(count, heads, group, size).permute(1, 0, 2, 3).reshape(heads, count * group, size)
    )


def _chosen(attention: torch.Tensor, places: int) -> torch.Tensor:
    """Tokens whose columns of the attention span the others best, greedily (pivoted Cholesky).

    The most read token comes first, and one that is read like the chosen ones, never.  Of a long text, only
    the tokens that are read most are looked at, `_CANDIDATES` times as many as places.

    Args:
        attention: (kv_heads, queries, tokens).

    Returns:
        (kv_heads, places)
    """
    heads, count, tokens = attention.shape
    tokens = min(tokens, max(_CANDIDATES * places, _LEAST_CANDIDATES))
    most = attention.square().sum(1).topk(tokens, dim=-1).indices  # (kv_heads, candidates)
    attention = attention.gather(2, most[:, None].expand(-1, count, -1))
    gram = attention.transpose(1, 2) @ attention  # (kv_heads, tokens, tokens)
    left = gram.diagonal(dim1=1, dim2=2).clone()  # (kv_heads, tokens)
    taken = torch.zeros(heads, tokens, dtype=torch.bool, device=gram.device)
    spanned = gram.new_zeros(heads, tokens, places)
    rows = torch.arange(heads, device=gram.device)
    chosen = torch.zeros(heads, places, dtype=torch.long, device=gram.device)
    for number in range(places):
        pivot = left.masked_fill(taken, -1.0).argmax(-1)
        chosen[:, number], taken[rows, pivot] = pivot, True
        before = spanned[:, :, :number]
        column = gram[rows, pivot] - (before @ before[rows, pivot][..., None]).squeeze(-1)
        column = column / left[rows, pivot].clamp(min=1e-12).sqrt()[:, None]
        spanned[:, :, number] = column
        left = (left - column.square()).clamp(min=0)
    return most.gather(1, chosen)


def _factors(shares: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Factors of the places whose masses sum to that of the text: non-negative least squares.

    By multiplicative updates: all numbers are positive.

    Args:
        shares: (kv_heads, queries, places) mass of each place over that of the text, weighted.
        wanted: (kv_heads, queries, 1) the weights.

    Returns:
        (kv_heads, places), at least `_LEAST_FACTOR`.
    """
    gram = shares.transpose(1, 2) @ shares  # (kv_heads, places, places)
    target = (shares.transpose(1, 2) @ wanted).squeeze(-1)
    factors = torch.ones_like(target)
    for _ in range(_ROUNDS):
        now = (gram @ factors[..., None]).squeeze(-1)
        factors = factors * target / now.clamp(min=1e-12)
    return factors.clamp(min=_LEAST_FACTOR)


def _common_direction(queries: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(kv_heads, d): a direction whose product with each reference query is about 1."""
    weighted = queries * weight
    gram = weighted.transpose(1, 2) @ weighted
    gram = gram + _RIDGE * _mean_diagonal(gram) * torch.eye(gram.shape[-1], device=gram.device)
    target = weighted.transpose(1, 2) @ weight
    direction: torch.Tensor = torch.linalg.solve(gram, target).squeeze(-1)
    return direction


def _values(
    keys: torch.Tensor,
    start: torch.Tensor,
    queries: torch.Tensor,
    weight: torch.Tensor,
    wanted: torch.Tensor,
) -> torch.Tensor:
    """(kv_heads, places, d): values whose averages are the wanted ones, near `start` where that is free."""
    attention = (queries @ keys.transpose(1, 2)).softmax(-1)
    missing = (wanted - attention @ start) * weight
    attention = attention * weight
    gram = attention.transpose(1, 2) @ attention
    gram = gram + _RIDGE * _mean_diagonal(gram) * torch.eye(gram.shape[-1], device=gram.device)
    change: torch.Tensor = torch.linalg.solve(gram, attention.transpose(1, 2) @ missing)
    return start + change


def _mean_diagonal(gram: torch.Tensor) -> torch.Tensor:
    """(kv_heads, 1, 1)"""
    mean = gram.diagonal(dim1=1, dim2=2).mean(-1)
    return mean.clamp(min=math.ulp(1.0))[:, None, None]
