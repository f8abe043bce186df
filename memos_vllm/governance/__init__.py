"""MemGovernance: identity of the caller, permissions on cubes, and cache isolation."""
