"""MemStore: memory as a package that is published, signed, installed, updated and removed whole."""
