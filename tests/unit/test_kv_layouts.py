"""The connector reads and writes the KV cache of every CUDA backend of vLLM, in every layout it can have.

Allocation and views are vLLM's own, and so is each backend's `do_kv_cache_update`. Triton's kernel runs in its
interpreter; the CUDA operator, which no CPU has, is replaced by what it does, written in torch.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import itertools
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch

from memos_vllm.activation.direct_io import Scratch
from memos_vllm.engine.kv.blocks import PagedCache, Unsupported

interface = pytest.importorskip("vllm.v1.kv_cache_interface", reason="vLLM's: make venv")
pytestmark = pytest.mark.slow  # imports vLLM
BACKENDS = "vllm.v1.attention.backends"
IMPLEMENTATIONS = {
    "flash_attn": "FlashAttentionImpl",
    "flashinfer": "FlashInferImpl",
    "triton_attn": "TritonAttentionImpl",
    "flex_attention": "FlexAttentionImpl",
}
LAYERS, BLOCKS, HEAD = 3, 7, 8


def reshape_and_cache_flash(
    key: Any, value: Any, key_cache: Any, value_cache: Any, slot_mapping: Any, *_: Any
) -> None:
    """As the CUDA operator: (tokens, heads, dim) into (blocks, size, heads, dim), by slot."""
    size = key_cache.shape[1]
    for token, slot in enumerate(slot_mapping.tolist()):
        if slot >= 0:
            key_cache[slot // size, slot % size] = key[token]
            value_cache[slot // size, slot % size] = value[token]


def interpreted() -> Any:
    """vLLM's Triton kernel, run by Triton's interpreter."""
    name = "vllm.v1.attention.ops.triton_reshape_and_cache_flash"
    triton = pytest.importorskip("triton", reason="its interpreter runs the kernel")
    import triton.language as language
    import vllm.triton_utils as utils

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        patch.setattr(utils, "triton", triton)
        patch.setattr(utils, "tl", language)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module.triton_reshape_and_cache_flash


@pytest.fixture(scope="module")
def modules() -> Iterator[dict[str, Any]]:
    """vLLM's modules of the backends, over the operator in torch."""

    importlib.import_module("vllm.utils.flashinfer")  # finds none, before there is one
    found = {
        name: importlib.import_module(f"{BACKENDS}.{name}")
        for name in IMPLEMENTATIONS
        if name != "flashinfer"
    }
    with pytest.MonkeyPatch.context() as patch:
        for part in ("", ".decode", ".prefill", ".utils"):
            if (name := f"flashinfer{part}") not in sys.modules:
                spec = importlib.machinery.ModuleSpec(name, None)
                patch.setitem(sys.modules, name, mock.MagicMock(__path__=[], __spec__=spec))
        found["flashinfer"] = importlib.import_module(f"{BACKENDS}.flashinfer")
    sys.modules.pop(f"{BACKENDS}.flashinfer", None)
    with pytest.MonkeyPatch.context() as patch:
        for owner, operator, replacement in (
            (found["flash_attn"], "reshape_and_cache_flash", reshape_and_cache_flash),
            (found["triton_attn"], "triton_reshape_and_cache_flash", interpreted()),
            (torch.ops._C_cache_ops, "reshape_and_cache_flash", reshape_and_cache_flash),
        ):
            patch.setattr(owner, operator, replacement, raising=False)
        patch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
        yield found


def implementation(module: Any, name: str, heads: int) -> Any:
    """The backend's own object, with what `do_kv_cache_update` reads of it."""
    made = object.__new__(getattr(module, IMPLEMENTATIONS[name]))
    made.attn_type, made.head_size, made.num_kv_heads = "decoder", HEAD, heads
    made.cache_dtype = "auto"
    made.kv_cache_dtype, made.kv_sharing_target_layer_name = "auto", None
    made.nvfp4_fa2 = made.is_kvcache_nvfp4 = False
    made._is_per_token_head_quant = False
    return made


def allocated(layout: Any, size: int, heads: int, dtype: Any) -> dict[str, torch.Tensor]:
    """The tensors that vLLM registers, one a layer."""
    from vllm.v1.worker.utils import allocate_kv_cache

    spec = interface.FullAttentionSpec(
        block_size=size, num_kv_heads=heads, head_size=HEAD, dtype=dtype
    )
    names = [f"layer.{i}" for i in range(LAYERS)]
    strides = interface.compute_layout_strides(spec, BLOCKS, LAYERS, layout)
    tensor = interface.KVCacheTensor(
        size=LAYERS * BLOCKS * spec.page_size_bytes,
        layers=names,
        layer_stride=strides[0],
        block_stride=strides[1],
    )
    config = interface.KVCacheConfig(
        num_blocks=BLOCKS,
        kv_cache_tensors=[tensor],
        kv_cache_groups=[interface.KVCacheGroupSpec(names, spec)],
    )
    return allocate_kv_cache(config, torch.device("cpu"), layout)


def layouts_of(module: Any, name: str) -> list[Any]:
    from vllm.v1.kv_cache_layout import KVCacheLayout

    prefix = IMPLEMENTATIONS[name].removesuffix("Impl")
    supported = getattr(module, f"{prefix}Backend").supported_kv_cache_layouts()
    return list(supported if supported is not None else KVCacheLayout)


def opened(
    module: Any, name: str, layout: Any, size: int, heads: int, dtype: Any
) -> tuple[PagedCache, dict[str, torch.Tensor]]:
    caches = allocated(layout, size, heads, dtype)
    layer = SimpleNamespace(
        impl=implementation(module, name, heads),
        num_kv_heads=heads,
        head_size=HEAD,
        _k_scale=torch.ones(1),
        _v_scale=torch.ones(1),
    )
    return PagedCache(caches, dict.fromkeys(caches, layer), BLOCKS, size), caches


def cases() -> Iterator[Any]:
    """Backend, block size, heads of a tensor-parallel shard, type; the interpreter is slow."""
    for name, size, heads, dtype in itertools.product(
        IMPLEMENTATIONS, (16, 32, 64), (1, 2, 4), (torch.bfloat16, torch.float16)
    ):
        if name != "triton_attn" or (heads == 2) == (dtype == torch.float16):
            label = f"{name}-{size}-{heads}-{str(dtype).rpartition('.')[2]}"
            yield pytest.param(name, size, heads, dtype, id=label)


@pytest.mark.parametrize(("name", "size", "heads", "dtype"), cases())
def test_what_is_written_is_read_back_in_every_layout(modules, name, size, heads, dtype):
    for layout in layouts_of(modules[name], name):
        cache, caches = opened(modules[name], name, layout, size, heads, dtype)
        dice = torch.Generator().manual_seed(size * heads)
        others = {each: tensor.normal_(generator=dice).clone() for each, tensor in caches.items()}
        blocks, start, end = [5, 1, 4], size - 2, 2 * size + 2
        shape = (LAYERS, 2, end - start, heads, HEAD)
        kv = torch.randn(shape, generator=dice).to(dtype)
        cache.probe()
        assert all(torch.equal(caches[each], others[each]) for each in caches), "probing left marks"
        slots = cache.slots(blocks, start, end)
        for layer in range(LAYERS):
            cache.write(layer, slots, kv[layer, 0], kv[layer, 1])
        for layer, read in enumerate(cache.read(blocks, start, end, Scratch())):
            assert torch.equal(read, kv[layer]), (layout, layer)
        for each, tensor in caches.items():
            untouched = [block for block in range(BLOCKS) if block not in blocks]
            assert torch.equal(tensor[untouched], others[each][untouched]), layout


def test_blocks_that_the_kernel_splits_are_refused_with_a_reason(modules):
    """Where the kernel's blocks are smaller than the scheduler's, a block id names several of the tensor's."""
    from vllm.v1.kv_cache_layout import KVCacheLayout

    caches = allocated(KVCacheLayout.LBNHC, 16, 2, torch.bfloat16)
    layer = SimpleNamespace(
        impl=implementation(modules["flash_attn"], "flash_attn", 2), num_kv_heads=2, head_size=HEAD
    )
    with pytest.raises(Unsupported, match="not one paged tensor"):
        PagedCache(caches, dict.fromkeys(caches, layer), BLOCKS * 2 + 1, 32)


@pytest.mark.parametrize("more", [{"num_kv_heads": 4}, {"head_size": 16}, {"head_size_v": 4}])
def test_layers_that_differ_are_refused_with_a_reason(modules, more):
    from vllm.v1.kv_cache_layout import KVCacheLayout

    caches = allocated(KVCacheLayout.LBNHC, 16, 2, torch.bfloat16)
    impl = implementation(modules["flash_attn"], "flash_attn", 2)
    usual = {"impl": impl, "num_kv_heads": 2, "head_size": HEAD}
    layers = {name: SimpleNamespace(**usual) for name in caches}
    layers["layer.1"] = SimpleNamespace(**(usual | more))
    with pytest.raises(Unsupported, match="differ in heads"):
        PagedCache(caches, layers, BLOCKS, 16)
