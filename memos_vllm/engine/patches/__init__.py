"""Patches of vLLM: each module is one entry of the ledger in `patches/`."""

from __future__ import annotations

from memos_vllm.engine.patches import cpu_lora, pinned_lora, seeded_chunks

PATCHES = (cpu_lora, pinned_lora, seeded_chunks)


def install() -> list[str]:
    """Install the patches that this process's vLLM needs; returns their names. Idempotent."""
    return [patch.NAME for patch in PATCHES if patch.install()]
