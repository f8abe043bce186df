"""Time to first token with memory, against the limit: vLLM's own prefix cache, fully warm."""
