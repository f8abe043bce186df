"""How far from a full prefill: the engine's own floor, near KV by what is recomputed, and strangers."""
