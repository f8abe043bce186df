"""Memory that is added and searched at fixed rates, ours, mem0's and that of MemOS, the reference."""
