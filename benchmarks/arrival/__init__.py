"""Time to first token of the first question to a bundle that has just been approved."""
