"""MemOperator: BM25, vectors in Chroma, score fusion, and the index of each owner."""
