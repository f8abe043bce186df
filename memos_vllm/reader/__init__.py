"""MemReader: a turn in; a question to memory, or new items for memory, out."""
