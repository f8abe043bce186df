"""MemReader: read turns, documents and questions into items, claims and queries."""
