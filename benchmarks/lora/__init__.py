"""Adapters as memory: what attaching costs."""
