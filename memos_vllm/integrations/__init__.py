"""Memory inside other frameworks: thin adapters over the Memory API, each an extra of its own.

They talk HTTP to a running server with the tenant's key or a person's token, and import neither the engine nor
the store.
"""
