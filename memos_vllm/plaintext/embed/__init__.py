"""Text embedding: batching, query cache, encoder processes."""
