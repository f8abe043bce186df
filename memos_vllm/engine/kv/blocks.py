"""Read and write tokens of the engine's paged KV cache, in any layout.

Writing goes through the attention layer's own `do_kv_cache_update`.  Reading needs the layout, which
differs by backend and instruction set (for a CPU's vector units, K is transposed inside a block), so
it is probed once: known numbers are written into a block as the engine writes, and their positions in
memory are the permutation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from memos_vllm.activation.direct_io import Scratch
from memos_vllm.activation.files import Shape

_DIGIT = 256  # every integer up to here is exact in bfloat16


class Unsupported(Exception):
    """A model or backend whose KV cannot be carried; the message says why."""


@dataclasses.dataclass
class _Layer:
    module: Any
    cache: torch.Tensor
    block_dim: int


class PagedCache:
    """The registered KV tensors of one worker, as tokens."""

    def __init__(
        self, caches: Mapping[str, torch.Tensor], modules: Mapping[str, Any], blocks: int, size: int
    ) -> None:
        """
        Args:
            caches: layer name → KV tensor, one dimension of which is `blocks`.
            modules: layer name → attention module.
            size: tokens in a block.
            blocks: in the whole cache.

        Raises:
            Unsupported: a layer has no way to write KV, no known layout, or other heads than the first.
        """
        self.block_size = size
        self._layers = []
        for name, cache in caches.items():
            module = modules[name]
            if not hasattr(module.impl, "do_kv_cache_update"):
                raise Unsupported(
                    f"{type(module.impl).__name__} has no `do_kv_cache_update` to write KV with"
                )
            if blocks not in getattr(cache, "shape", ()):
                raise Unsupported("the KV cache is not one paged tensor a layer")
            self._layers.append(_Layer(module, cache, list(cache.shape).index(blocks)))
        self._positions = {name: i for i, name in enumerate(caches)}
        first = self._layers[0].module
        self.heads, self.head_dim = int(first.num_kv_heads), int(first.head_size)
        for layer in self._layers:
            keys = (layer.module.num_kv_heads, layer.module.head_size)
            values = getattr(layer.module, "head_size_v", None) or self.head_dim
            if keys != (self.heads, self.head_dim) or values != self.head_dim:
                raise Unsupported(
                    "its layers, or its keys and values, differ in heads or their size"
                )
        self.dtype = self._layers[0].cache.dtype
        if self.dtype not in (torch.bfloat16, torch.float16, torch.float32):
            raise Unsupported(f"the KV cache has the type {self.dtype}")
        self._permutation: torch.Tensor | None = None
        self._blocks = blocks

    @property
    def layers(self) -> int:
        return len(self._layers)

    def position(self, name: str) -> int | None:
        """Index of a layer, by its name; None: it shares another layer's KV."""
        return self._positions.get(name)

    @property
    def device(self) -> torch.device:
        return self._layers[0].cache.device

    def read(
        self, block_ids: Sequence[int], start: int, end: int, scratch: Scratch
    ) -> Iterator[torch.Tensor]:
        """Each layer of tokens `start:end` of a request, (2, tokens, heads, head_dim) on the CPU.

        All layers use the memory of `scratch`: one is valid until the next is read.
        """
        permutation = self._permutation
        if permutation is None:
            permutation = self._permutation = self._find_layout()
        size = self.block_size
        first, last = start // size, (end - 1) // size + 1
        ids = torch.tensor(block_ids[first:last], device=self.device)
        shape = self.shape(end - start)
        window = slice(start - first * size, end - first * size)
        for layer in self._layers:
            flat = layer.cache.index_select(layer.block_dim, ids).movedim(layer.block_dim, 0)
            tokens = flat.flatten(1).index_select(1, permutation)
            # (blocks, k/v, token, head, dim)
            tokens = tokens.view(len(ids), 2, size, self.heads, self.head_dim)
            target = scratch.take(shape.layer_bytes).view(shape.dtype).view(shape.sizes()[1:])
            target[0] = tokens[:, 0].flatten(0, 1)[window]
            target[1] = tokens[:, 1].flatten(0, 1)[window]
            yield target

    def slots(self, block_ids: Sequence[int], start: int, end: int) -> torch.Tensor:
        """Slot mapping of tokens `start:end` of a request, (tokens,) int64."""
        position = torch.arange(start, end)
        blocks = torch.tensor(block_ids)[position // self.block_size]
        return (blocks * self.block_size + position % self.block_size).to(self.device)

    def write(self, layer: int, slots: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
        """Write one layer's K and V, (tokens, heads, head_dim), into these slots."""
        k, v = k.to(self.device, non_blocking=True), v.to(self.device, non_blocking=True)
        self._update(self._layers[layer], k, v, slots)

    def shape(self, tokens: int) -> Shape:
        return Shape(self.layers, tokens, self.heads, self.head_dim, self.dtype)

    def probe(self) -> None:
        """Probe the layout now. Raises Unsupported."""
        self._permutation = self._find_layout()

    def _find_layout(self) -> torch.Tensor:
        """Position in a block of each number of (k/v, token, head, dim), flat.

        Uses the last block, and restores its contents.

        Raises:
            Unsupported: some number is not found in exactly one position.
        """
        layer, block = self._layers[0], self._blocks - 1
        shape = (self.block_size, self.heads, self.head_dim)
        count = self.block_size * self.heads * self.head_dim
        slots = torch.arange(self.block_size, device=self.device) + block * self.block_size
        block_kv = layer.cache.select(layer.block_dim, block)
        before = block_kv.clone()
        found = torch.zeros(block_kv.numel(), dtype=torch.int64, device=self.device)
        numbers = torch.arange(1, 2 * count + 1)
        scale = 1
        try:
            while scale <= 2 * count:
                digits = (numbers // scale % _DIGIT).to(self.dtype).to(self.device)
                block_kv.zero_()
                self._update(layer, digits[:count].view(shape), digits[count:].view(shape), slots)
                found += block_kv.reshape(-1).to(torch.int64) * scale
                scale *= _DIGIT
        finally:
            block_kv.copy_(before)
        order = torch.full((2 * count + 1,), -1, dtype=torch.int64, device=self.device)
        valid = (found > 0) & (found <= 2 * count)
        order[found[valid]] = torch.nonzero(valid).view(-1)
        if int(valid.sum()) != 2 * count or bool((order[1:] < 0).any()):
            raise Unsupported("the KV cache's layout is not a permutation of tokens")
        return order[1:]

    def _update(self, layer: _Layer, k: torch.Tensor, v: torch.Tensor, slots: torch.Tensor) -> None:
        layer.module.impl.do_kv_cache_update(layer.module, k, v, layer.cache, slots)
