"""Memory that is added and searched at fixed rates, ours and mem0's."""
