"""Cost of the KV store by the number of stored segments, without an engine."""
