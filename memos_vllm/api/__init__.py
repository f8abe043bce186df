"""The HTTP edge: authentication of every request, and the Memory API under `/v1/memory`."""
