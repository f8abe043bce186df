"""Activation memory: KV that outlives the engine, as files that every process can see."""
