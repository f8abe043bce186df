"""MemReader: turns, documents and questions in; items, claims and queries out."""
