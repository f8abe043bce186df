"""Models whose KV can be carried, and the reason against the others."""

from __future__ import annotations

from typing import Any


def unsupported_reason(vllm_config: Any, kv_cache_config: Any) -> str | None:
    """Why the KV of this model cannot be saved; None: it can.

    Args:
        vllm_config: of the engine.
        kv_cache_config: None where only the model's configuration is known.
    """
    from vllm.v1.kv_cache_interface import FullAttentionSpec, MLAAttentionSpec

    model, parallel = vllm_config.model_config, vllm_config.parallel_config
    dtype = str(vllm_config.cache_config.cache_dtype)
    if dtype not in ("auto", "bfloat16", "float16", "float32", str(model.dtype).rpartition(".")[2]):
        return f"the KV cache is quantised ({dtype})"
    if getattr(parallel, "decode_context_parallel_size", 1) > 1:
        return "decode context parallelism spreads one request's tokens over workers"
    if getattr(model, "enable_sleep_mode", False):
        return (
            "sleep mode takes the KV cache away from under saves and loads that run between steps"
        )
    if kv_cache_config is None:
        return None
    groups = kv_cache_config.kv_cache_groups
    if len(groups) != 1:
        return f"the model has {len(groups)} kinds of state (hybrid), one is supported"
    spec = groups[0].kv_cache_spec
    if not isinstance(spec, FullAttentionSpec) or isinstance(spec, MLAAttentionSpec):
        return f"its attention is {type(spec).__name__}, full attention is supported"
    if getattr(spec, "non_causal", False):
        return "its attention is not causal, so KV depends on later tokens"
    if getattr(spec, "sliding_window", None) or getattr(spec, "attention_chunk_size", None):
        return "its attention has a window"
    return None
