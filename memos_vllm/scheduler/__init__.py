"""MemScheduler: which memory stands in a prompt, in which form and order, and why."""
