"""MemOperator: index and search of plaintext cubes, dense (Chroma) and lexical (BM25), fused."""
