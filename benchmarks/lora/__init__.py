"""Time to first token with LoRA adapters, and many registered adapters."""
