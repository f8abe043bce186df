"""Plaintext memory: reading text into items, claims, embeddings, and search."""
