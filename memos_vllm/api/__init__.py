"""The HTTP edge: the door that every request passes, and the Memory API under `/v1/memory`."""
