"""MemGovernance: who is asking, what they may do, and which cache they share."""
