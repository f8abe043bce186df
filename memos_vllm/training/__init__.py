"""Teaching a model what a text says: an adapter, made in a process of its own, from a folder's order."""
