"""LoRA adapters in the running engine: loading, pinning, merging."""
