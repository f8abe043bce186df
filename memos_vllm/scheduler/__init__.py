"""MemScheduler: choose the memory of a prompt, its form and its order, and give the reasons."""
