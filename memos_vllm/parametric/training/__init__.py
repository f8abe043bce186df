"""The process that distils text into an adapter, its lessons, and the gate that it must pass."""
