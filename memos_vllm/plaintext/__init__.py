"""Plaintext memory: readers of turns and documents, claims, embeddings, and search."""
