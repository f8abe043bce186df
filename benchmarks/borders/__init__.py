"""Deviation of loaded KV from a full prefill, and a timing side channel between persons."""
