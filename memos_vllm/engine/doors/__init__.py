"""The routes beside chat with memory in front: what each protocol's bodies and replies look like."""
