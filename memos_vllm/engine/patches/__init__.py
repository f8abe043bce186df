"""Patches of vLLM: each module is one entry of the ledger in `patches/`."""

from __future__ import annotations

from memos_vllm.engine.patches import (
    cpu_lora,
    eager_sampling,
    early_end,
    pinned_lora,
    required_loads,
    seeded_chunks,
    shared_heads,
)

PATCHES = (
    cpu_lora,
    pinned_lora,
    seeded_chunks,
    eager_sampling,
    early_end,
    shared_heads,
    required_loads,
)


def install() -> list[str]:
    """Install the patches that this process's vLLM needs; returns their names. Idempotent."""
    return [patch.NAME for patch in PATCHES if patch.install()]
