"""The embedding model: batching, caching, worker processes."""
