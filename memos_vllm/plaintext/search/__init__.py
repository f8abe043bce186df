"""MemOperator: BM25, vectors in Chroma, score fusion, and an index per owner."""
